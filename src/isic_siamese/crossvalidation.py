"""Cross-validation over patients: every image is answered by a network that saw no image of its patient."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from isic_siamese import metrics
from isic_siamese.augment import AugmentParams
from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.classifier import fit_classifier, reference_scores
from isic_siamese.controls import mean_colours, regress
from isic_siamese.encoder import EMBED_BATCH, embed
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_csv
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.params import Count, Section
from isic_siamese.shards import Shards
from isic_siamese.splits import rows_of, split_patients
from isic_siamese.trainer import Trainer, TrainingData, TrainParams
from isic_siamese.training import train

log = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]
ANSWERS = ["row", "score", "probability", "decision"]
MATCHED = 5.0  # levels of 255: two images whose mean brightness differs by no more are alike in it


class CrossvalidateParams(Section):
    """The section `crossvalidate` of `params.yaml`."""

    folds: Annotated[int, Field(ge=3)]  # one for test, one for validation, the rest to train on
    repeats: Count


@dataclass(frozen=True)
class Recipe:
    """All that one training and its evaluation depend on, beside the images and the seed."""

    pairs: PairsParams
    train: TrainParams
    augment: AugmentParams
    evaluate: EvaluateParams
    margin: float


def fold_patients(index: pd.DataFrame, folds: int, rng: np.random.Generator) -> list[IntArray]:
    """Divide the images into `folds` of equal shares, no patient in two; return the rows of each."""
    names = [str(number) for number in range(folds)]
    splits = split_patients(index, dict.fromkeys(names, 1 / folds), rng)
    return [rows_of(index, splits, name) for name in names]


def cross_validate(
    shards: Shards, index: pd.DataFrame, recipe: Recipe, params: CrossvalidateParams, seed: int
) -> pd.DataFrame:
    """Train once a fold and repeat, and answer for the fold that was held out.

    Each fold is the test split once; the next one is then the validation split, for the best epoch, the calibration and
    the threshold. Each repeat divides the patients anew. A fold that is done is kept in `data/checkpoints`, so that
    a run that was stopped goes on with the next.

    Returns:
        `repeat, fold, row, image_name, patient_id, target, score, probability, decision`, each image once a repeat; and
        `brightness`, its mean, with `colour_score`, what a regression on mean colour alone gives it in the same folds.
    """
    parts = []
    colours = mean_colours(shards.batches(np.arange(len(shards)), EMBED_BATCH, "mean colours"))
    malignant = index["target"].to_numpy() == 1
    for repeat in range(params.repeats):
        rng = np.random.default_rng([seed, repeat])
        rows = fold_patients(index, params.folds, rng)
        for fold in range(params.folds):
            order = [rows[(fold + step) % params.folds] for step in range(params.folds)]
            log.info("repeat %d of %d, fold %d of %d", repeat + 1, params.repeats, fold + 1, params.folds)
            answers = _answer_fold(shards, index, recipe, order, int(rng.integers(2**32)))
            learned = np.concatenate(order[2:])
            answers["colour_score"] = regress(colours[learned], malignant[learned], colours[order[0]])
            answers.insert(0, "fold", fold + 1)
            answers.insert(0, "repeat", repeat + 1)
            parts.append(answers)
    answers = pd.concat(parts, ignore_index=True)
    facts = index[["row", "image_name", "patient_id", "target"]].assign(brightness=colours.mean(axis=1))
    return answers.merge(facts, on="row")


def _answer_fold(shards: Shards, index: pd.DataFrame, recipe: Recipe, order: list[IntArray], seed: int) -> pd.DataFrame:
    """Train on all but the first two of `order`, choose on the second, and answer for the first."""
    test, val, rest = order[0], order[1], np.sort(np.concatenate(order[2:]))
    malignant = index["target"].to_numpy() == 1
    pairs = draw_pairs(rest, malignant[rest], recipe.pairs, np.random.default_rng(seed), oversample=True)
    data = TrainingData(shards, malignant, rest, val, pairs, recipe.pairs.pairs_per_block)
    trainer = Trainer(data, recipe.train, recipe.augment, recipe.margin, seed)
    done = (
        Path("data/checkpoints/crossvalidate")
        / f"{trainer.key()}-{recipe.evaluate.temperature}-{recipe.evaluate.orientations}.csv"
    )
    if not done.exists():
        write_csv(done, _train_and_answer(trainer, test, done.with_suffix(""), recipe.evaluate))
    return pd.read_csv(done)  # also when new, so that a run that was stopped ends in the same digits


def _train_and_answer(trainer: Trainer, test: IntArray, checkpoints: Path, params: EvaluateParams) -> pd.DataFrame:
    data = trainer.data
    encoder = train(trainer, checkpoints, lambda _: None).encoder
    references = embed(encoder, data.shards.batches(data.train_rows, EMBED_BATCH))
    of_val, of_test = (
        embed(encoder, data.shards.batches(rows, EMBED_BATCH // params.orientations), params.orientations)
        for rows in (data.val_rows, test)
    )
    labels = data.malignant[data.train_rows]
    val_scores = reference_scores(of_val, references, labels, params.temperature)
    classifier = fit_classifier(
        val_scores, data.malignant[data.val_rows], params.temperature, params.neighbours, params.orientations
    )
    scores = reference_scores(of_test, references, labels, params.temperature)
    probabilities = classifier.probabilities(scores)
    columns = (test, scores, probabilities, classifier.decide(probabilities).astype(np.int64))
    return pd.DataFrame(dict(zip(ANSWERS, columns, strict=True)))


def pooled_figures(answers: pd.DataFrame, params: EvaluateParams, seed: int) -> dict[str, object]:
    """Return the figures of the pooled answers: the mean of the repeats, with an interval over patients.

    The answers of all folds are pooled by their calibrated probability. A resample draws patients once for all repeats,
    so that the interval is that of the mean, and does not pretend that repeats are new patients.
    """
    first = answers[answers["repeat"] == 1].sort_values("row")
    malignant = first["target"].to_numpy() == 1
    rng = np.random.default_rng(seed)
    resamples = draw_resamples(first["patient_id"], malignant, params.resamples, rng)
    repeats = [part.sort_values("row") for _, part in answers.groupby("repeat")]

    measures = [_measure(part, malignant) for part in repeats]

    def measure(weights: metrics.Floats) -> dict[str, metrics.Floats]:
        each = [measure_repeat(weights) for measure_repeat in measures]
        return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}

    even = np.ones((1, len(malignant)))
    once = measure(even)
    spread = resample_images(measure, resamples)
    content: dict[str, object] = {name: figure(once[name][0], spread[name], params.confidence) for name in once}
    counts = {"images": len(first), "melanomas": int(malignant.sum()), "patients": first["patient_id"].nunique()}
    single = [measure_repeat(even)["roc_auc"][0] for measure_repeat in measures]
    by_repeat = {str(number): float(value) for number, value in enumerate(single, start=1)}
    return {**content, "roc_auc_by_repeat": by_repeat, "counts": counts}


def _measure(part: pd.DataFrame, malignant: metrics.Bools) -> Callable[[metrics.Floats], dict[str, metrics.Floats]]:
    """Return a function from weights `(B, N)` to the figures of one repeat, each `(B,)`."""
    probability, colour, brightness = (part[name].to_numpy() for name in ("probability", "colour_score", "brightness"))
    decided = part["decision"].to_numpy() == 1
    areas = {
        "brightness_matched_roc_auc": metrics.matched_auc(probability, malignant, brightness, MATCHED),
        "colour_roc_auc": metrics.rank_auc(colour, malignant),
        "brightness_matched_colour_roc_auc": metrics.matched_auc(colour, malignant, brightness, MATCHED),
    }

    def measure(weights: metrics.Floats) -> dict[str, metrics.Floats]:
        curve = metrics.sweep(probability, malignant, weights)
        rates = metrics.decision_figures(decided, malignant, weights)
        return {
            "roc_auc": metrics.roc_auc(curve),
            "average_precision": metrics.average_precision(curve),
            **{name: rates[name] for name in ("balanced_accuracy", "sensitivity", "specificity")},
            **{name: area(weights) for name, area in areas.items()},
        }

    return measure
