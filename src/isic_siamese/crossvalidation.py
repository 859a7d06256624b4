"""Cross-validation over patients: every image is answered by a network that saw no image of its patient."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from isic_siamese.arrays import Bools, Embeddings, Floats, Ints
from isic_siamese.augment import AugmentParams
from isic_siamese.checkpoint import Checkpoint
from isic_siamese.classifier import fit_classifier
from isic_siamese.controls import ControlData, FrozenFeatures, frozen_scores, mean_colours, regress, vote
from isic_siamese.embedding import embed_rows
from isic_siamese.errors import DataError
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_csv
from isic_siamese.leaks import shard_thumbnails, shared_pictures
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.params import Count, Section
from isic_siamese.references import find_nearest
from isic_siamese.shards import Shards
from isic_siamese.splits import rows_of, split_patients
from isic_siamese.trainer import Trainer
from isic_siamese.training import train
from isic_siamese.training_data import TrainingData, TrainParams, training_key
from isic_siamese.votes import vote_scores

log = logging.getLogger(__name__)

# From the embeddings (N, D) that are asked about, and references (R, D) with their labels (R,), to scores (N,).
Score = Callable[[Embeddings, Embeddings, Bools], Floats]
CHECKPOINTS = Path("data/checkpoints/crossvalidate")


class CrossvalidateParams(Section):
    """The section `crossvalidate` of `params.yaml`."""

    folds: Annotated[int, Field(ge=3, le=1000)]  # one for test, one for validation, the rest to train on
    repeats: Count


@dataclass(frozen=True)
class Recipe:
    """All that one training and its evaluation depend on, beside the images and the seed.

    `score` says how the references answer, where it is not by their learned votes.
    """

    pairs: PairsParams
    train: TrainParams
    augment: AugmentParams
    evaluate: EvaluateParams
    margin: float
    score: Score | None = None


def fold_patients(
    index: pd.DataFrame, folds: int, rng: np.random.Generator, shared: Sequence[tuple[int, int]] = ()
) -> list[Ints]:
    """Divide the images into `folds` of equal shares, no patient in two; return the rows of each.

    `shared` as in `split_patients`.

    Raises:
        DataError: there are too few patients of a class for so many.
    """
    names = [str(number) for number in range(folds)]
    try:
        splits = split_patients(index, dict.fromkeys(names, 1 / folds), rng, shared)
    except DataError:
        raise DataError(
            f"crossvalidate.folds: with {folds} one would have fewer than 2 patients with melanoma, or fewer than 2 "
            "without; lower it, or use a release with more patients"
        ) from None
    return [rows_of(index, splits, name) for name in names]


def cross_validate(
    shards: Shards,
    index: pd.DataFrame,
    recipe: Recipe,
    params: CrossvalidateParams,
    seed: int,
    checkpoints: Path = CHECKPOINTS,
) -> pd.DataFrame:
    """Train once a fold and repeat, and answer for the fold that was held out.

    Each fold is the test split once; the next one is then the validation split, for the best epoch, the calibration and
    the threshold. Each repeat divides the patients anew. A fold that is done is kept in `checkpoints`, so that a run
    that was stopped goes on with the next.

    Returns:
        `repeat, fold, row, image_name, patient_id, target, score, probability, decision`, each image once a repeat (the
        score being the calibrated log odds); and `brightness`, its mean, with the scores of `out_of_fold.CONTROLS` in
        the same folds, `<name>_score`.
    """
    parts = []
    malignant = index["target"].to_numpy() == 1
    rngs = [np.random.default_rng([seed, repeat]) for repeat in range(params.repeats)]
    shared = shared_pictures(index, shard_thumbnails(shards, "compare pictures"))
    divisions = [fold_patients(index, params.folds, rng, shared) for rng in rngs]
    colours, orientations = mean_colours(shards), recipe.evaluate.orientations
    untrained, frozen = (FrozenFeatures(weights, shards, orientations, seed) for weights in ("none", "imagenet"))
    for repeat, (rng, rows) in enumerate(zip(rngs, divisions, strict=True)):
        for fold in range(params.folds):
            test, *known = [rows[(fold + step) % params.folds] for step in range(params.folds)]
            log.info("repeat %d of %d, fold %d of %d", repeat + 1, params.repeats, fold + 1, params.folds)
            fold_seed = int(rng.integers(2**32))
            data = _fold_data(shards, malignant, known, recipe.pairs, fold_seed)
            answers = _answer_fold(data, test, recipe, fold_seed, checkpoints)
            control = ControlData(index, _union(known), test, shards, recipe.evaluate)
            labels = malignant[control.references]
            answers["mean_colour_score"] = regress(control, colours)
            answers["untrained_encoder_score"] = vote(control, untrained.embeddings(control.references), labels)
            for name, score in frozen_scores(control, frozen.pooled, frozen.embeddings(control.references)):
                answers[f"{name}_score"] = score
            parts.append(answers.assign(repeat=repeat + 1, fold=fold + 1))
    answers = pd.concat(parts, ignore_index=True)
    facts = index[["row", "image_name", "patient_id", "target"]].assign(brightness=colours.mean(axis=1))
    return answers.merge(facts, on="row")


def _fold_data(shards: Shards, malignant: Bools, known: list[Ints], params: PairsParams, seed: int) -> TrainingData:
    """Return what is trained on: all folds but the first of `known`, which is for validation."""
    val, rows = known[0], _union(known[1:])
    pairs = draw_pairs(rows, malignant[rows], params, np.random.default_rng(seed), oversample=True)
    return TrainingData(shards, malignant, rows, val, pairs)


def _union(rows: list[Ints]) -> Ints:
    return np.sort(np.concatenate(rows))


def _answer_fold(data: TrainingData, test: Ints, recipe: Recipe, seed: int, checkpoints: Path) -> pd.DataFrame:
    """Train, and answer for the images at `test`; `row, score, probability, decision`."""
    run = (data, recipe.train, recipe.augment, recipe.margin, seed)
    answered = f"{recipe.evaluate.temperature}-{recipe.evaluate.vote_penalty}-{recipe.evaluate.orientations}"
    key = training_key(*run)
    done = checkpoints / f"{key}-{answered}.csv"
    if not done.exists():
        write_csv(done, _train_and_answer(Trainer(*run), test, done.with_suffix(""), recipe))
        Checkpoint(done.with_suffix(""), key).forget()
    return pd.read_csv(done)  # also when new, so that a run that was stopped ends in the same digits


def _train_and_answer(trainer: Trainer, test: Ints, checkpoints: Path, recipe: Recipe) -> pd.DataFrame:
    data, params = trainer.data, recipe.evaluate
    encoder = train(trainer, checkpoints, lambda _: None).encoder
    embeddings = embed_rows(encoder, data.shards, np.arange(len(data.shards)), params.orientations)
    score = recipe.score or partial(vote_scores, temperature=params.temperature, penalty=params.vote_penalty)

    def answer(rows: Ints, references: Ints) -> Floats:
        return score(embeddings[rows], embeddings[references], data.malignant[references])

    val_scores = answer(data.val_rows, data.train_rows)
    _, nearest = find_nearest(embeddings[data.val_rows], embeddings[data.train_rows], 1)
    shown = params.neighbours, params.orientations
    classifier = fit_classifier(val_scores, data.malignant[data.val_rows], nearest[:, 0], *shown)
    votes = answer(test, _union([data.val_rows, data.train_rows]))
    probabilities, log_odds = classifier.probabilities(votes), classifier.log_odds(votes)
    columns = {
        "score": log_odds,
        "probability": probabilities,
        "decision": classifier.decide(probabilities).astype(int),
    }
    return pd.DataFrame({"row": test, **columns})
