"""Cross-validation over patients: every image is answered by a network that saw no image of its patient."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from isic_siamese import metrics
from isic_siamese.augment import AugmentParams
from isic_siamese.bootstrap import Measure, draw_resamples, mean_figures
from isic_siamese.classifier import Bools, Embeddings, Floats, fit_classifier
from isic_siamese.controls import SHRINKAGE, ControlData, imagenet_features, mean_colours, regress
from isic_siamese.encoder import embed_rows
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_csv
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.params import Count, Section
from isic_siamese.shards import Shards
from isic_siamese.splits import rows_of, split_patients
from isic_siamese.trainer import Trainer
from isic_siamese.training import train
from isic_siamese.training_data import TrainingData, TrainParams, training_key
from isic_siamese.votes import vote_scores

log = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
# From the embeddings (N, D) that are asked about, and references (R, D) with their labels (R,), to scores (N,).
Score = Callable[[Embeddings, Embeddings, Bools], Floats]
CHECKPOINTS = Path("data/checkpoints/crossvalidate")
ANSWERS = ["row", "score", "probability", "decision", "imagenet_score", "imagenet_votes_score"]
CONTROLS = ["colour", "imagenet", "imagenet_votes"]
MATCHED = 5.0  # levels of 255: two images whose mean brightness differs by no more are alike in it


class CrossvalidateParams(Section):
    """The section `crossvalidate` of `params.yaml`."""

    folds: Annotated[int, Field(ge=3)]  # one for test, one for validation, the rest to train on
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


def fold_patients(index: pd.DataFrame, folds: int, rng: np.random.Generator) -> list[IntArray]:
    """Divide the images into `folds` of equal shares, no patient in two; return the rows of each."""
    names = [str(number) for number in range(folds)]
    splits = split_patients(index, dict.fromkeys(names, 1 / folds), rng)
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
        `repeat, fold, row, image_name, patient_id, target, score, probability, decision`, each image once a repeat; and
        `brightness`, its mean, with what controls give it in the same folds: `colour_score` and `imagenet_score`,
        regressions on mean colour and on the frozen features of ImageNet, and `imagenet_votes_score`, votes on these.
    """
    parts = []
    colours = mean_colours(shards)
    malignant = index["target"].to_numpy() == 1
    for repeat in range(params.repeats):
        rng = np.random.default_rng([seed, repeat])
        rows = fold_patients(index, params.folds, rng)
        for fold in range(params.folds):
            order = [rows[(fold + step) % params.folds] for step in range(params.folds)]
            log.info("repeat %d of %d, fold %d of %d", repeat + 1, params.repeats, fold + 1, params.folds)
            answers = _answer_fold(shards, index, recipe, order, int(rng.integers(2**32)), checkpoints)
            learned = np.concatenate(order[2:])
            answers["colour_score"] = regress(colours[learned], malignant[learned], colours[order[0]])
            answers.insert(0, "fold", fold + 1)
            answers.insert(0, "repeat", repeat + 1)
            parts.append(answers)
    answers = pd.concat(parts, ignore_index=True)
    facts = index[["row", "image_name", "patient_id", "target"]].assign(brightness=colours.mean(axis=1))
    return answers.merge(facts, on="row")


def _answer_fold(
    shards: Shards, index: pd.DataFrame, recipe: Recipe, order: list[IntArray], seed: int, checkpoints: Path
) -> pd.DataFrame:
    """Train on all but the first two of `order`, choose on the second, and answer for the first."""
    test, val, rest = order[0], order[1], np.sort(np.concatenate(order[2:]))
    malignant = index["target"].to_numpy() == 1
    pairs = draw_pairs(rest, malignant[rest], recipe.pairs, np.random.default_rng(seed), oversample=True)
    data = TrainingData(shards, malignant, rest, val, pairs, recipe.pairs.pairs_per_block)
    run = (data, recipe.train, recipe.augment, recipe.margin, seed)
    control = ControlData(index, rest, test, shards, recipe.evaluate)
    answered = f"{recipe.evaluate.temperature}-{recipe.evaluate.vote_penalty}-{recipe.evaluate.orientations}"
    done = checkpoints / f"{training_key(*run)}-{answered}.csv"
    if not done.exists():
        write_csv(done, _train_and_answer(Trainer(*run), control, done.with_suffix(""), recipe))
    return pd.read_csv(done)  # also when new, so that a run that was stopped ends in the same digits


def _train_and_answer(trainer: Trainer, control: ControlData, checkpoints: Path, recipe: Recipe) -> pd.DataFrame:
    data, params, test = trainer.data, recipe.evaluate, control.test
    encoder = train(trainer, checkpoints, lambda _: None).encoder
    vote = partial(vote_scores, temperature=params.temperature, penalty=params.vote_penalty)
    score = recipe.score or vote
    rows = np.concatenate([data.val_rows, test, data.train_rows])
    embeddings = embed_rows(encoder, data.shards, rows, params.orientations)
    n_val, n_asked = len(data.val_rows), len(data.val_rows) + len(test)
    asked = score(embeddings[:n_asked], embeddings[n_asked:], data.malignant[data.train_rows])
    val_scores, scores = asked[:n_val], asked[n_val:]
    classifier = fit_classifier(val_scores, data.malignant[data.val_rows], params.neighbours, params.orientations)
    probabilities = classifier.probabilities(scores)
    features = imagenet_features(control)
    labels = control.malignant[control.train]
    regression = regress(features[control.train], labels, features[test], SHRINKAGE)
    votes = vote(features[test], features[control.train], labels)
    columns = (test, scores, probabilities, classifier.decide(probabilities).astype(np.int64), regression, votes)
    return pd.DataFrame(dict(zip(ANSWERS, columns, strict=True)))


def pooled_figures(answers: pd.DataFrame, params: EvaluateParams, seed: int) -> dict[str, object]:
    """Return the figures of the pooled answers: the mean of the repeats, with an interval over patients.

    The answers of all folds are pooled by their calibrated probability.
    """
    first = answers[answers["repeat"] == 1].sort_values("row")
    malignant = first["target"].to_numpy() == 1
    resamples = draw_resamples(first["patient_id"], malignant, params.resamples, np.random.default_rng(seed))
    measures = [_measure(part.sort_values("row"), malignant) for _, part in answers.groupby("repeat")]
    even = np.ones((1, len(malignant)))
    counts = {"images": len(first), "melanomas": int(malignant.sum()), "patients": first["patient_id"].nunique()}
    by_repeat = {str(number): float(measure(even)["roc_auc"][0]) for number, measure in enumerate(measures, start=1)}
    pooled = mean_figures(measures, resamples, params.confidence)
    return {**pooled, "roc_auc_by_repeat": by_repeat, "counts": counts}


def _measure(part: pd.DataFrame, malignant: Bools) -> Measure:
    """Return a function from weights `(B, N)` to the figures of one repeat, each `(B,)`."""
    probability, brightness = part["probability"].to_numpy(), part["brightness"].to_numpy()
    decided = part["decision"].to_numpy() == 1
    areas = {"brightness_matched_roc_auc": metrics.matched_auc(probability, malignant, brightness, MATCHED)}
    for name in CONTROLS:
        score = part[f"{name}_score"].to_numpy()
        areas[f"{name}_roc_auc"] = metrics.rank_auc(score, malignant)
        areas[f"brightness_matched_{name}_roc_auc"] = metrics.matched_auc(score, malignant, brightness, MATCHED)

    def measure(weights: Floats) -> dict[str, Floats]:
        curve = metrics.sweep(probability, malignant, weights)
        area = metrics.roc_auc(curve)
        rates = metrics.decision_figures(decided, malignant, weights)
        controls = {name: measured(weights) for name, measured in areas.items()}
        return {
            "roc_auc": area,
            "average_precision": metrics.average_precision(curve),
            **{name: rates[name] for name in ("balanced_accuracy", "sensitivity", "specificity")},
            **controls,
            **{f"{name}_less_network_roc_auc": controls[f"{name}_roc_auc"] - area for name in CONTROLS},
        }

    return measure
