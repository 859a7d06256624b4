"""What a cross-validation found: the figures of the out-of-fold answers, and their ROC curve as a picture.

Each fold has a network of its own, and the scores of two share no scale. So whatever ranks images compares those of one
fold; decisions and probabilities, which mean the same in every fold, are pooled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isic_siamese import metrics
from isic_siamese.areas import matched_auc, same_patient_auc, stratified_auc, within_strata
from isic_siamese.arrays import Bools, Floats
from isic_siamese.bootstrap import Measure, Resamples, draw_resamples, mean_figures, percentile_ends, resample_images
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.groups import Answered, group_figures
from isic_siamese.measures import GRID, MOST
from isic_siamese.pictures import write_figure
from isic_siamese.roc import Roc, draw_roc

CONTROLS = ["mean_colour", "untrained_encoder", "imagenet_features", "imagenet_votes"]
SCORED = ["", *(f"{name}_" for name in CONTROLS)]  # how columns and figures of the network begin, and of each control
GAINS = {f"{name}_less_network_roc_auc": f"{name}_roc_auc" for name in CONTROLS}  # and what each is the gain of
MATCHED = 5.0  # levels of 255: two images whose mean brightness differs by no more are alike in it
FAR = 1000.0  # levels, added for each fold: images of two are then never alike in brightness
# The curves of the picture: a column of the answers, its name, and its area in the figures. That of the last would hide
# the network's.
DRAWN = [
    ("score", "this model", "roc_auc"),
    ("imagenet_features_score", "regression on frozen features", "imagenet_features_roc_auc"),
    ("mean_colour_score", "regression on mean colour", "mean_colour_roc_auc"),
    ("imagenet_votes_score", "votes on frozen features (curve not drawn)", "imagenet_votes_roc_auc"),
]


@dataclass(frozen=True)
class Pooled:
    """The answers of all folds.

    Attributes:
        repeats: what `cross_validate` returns, a table of N images for each repeat, in row order.
        malignant: label of each image, `(N,)`.
        resamples: of the patients.
        confidence: of the intervals.
    """

    repeats: list[pd.DataFrame]
    malignant: Bools
    resamples: Resamples
    confidence: float


def pool(answers: pd.DataFrame, params: EvaluateParams, seed: int) -> Pooled:
    """Pool the `answers` of `cross_validate`, and draw resamples of the patients."""
    repeats = [part.sort_values("row") for _, part in answers.groupby("repeat")]
    malignant, patients = np.asarray(repeats[0]["target"] == 1), repeats[0]["patient_id"]
    resamples = draw_resamples(patients, malignant, params.resamples, np.random.default_rng(seed))
    return Pooled(repeats, malignant, resamples, params.confidence)


def pooled_figures(pooled: Pooled) -> dict[str, object]:
    """Return the figures of the answers: the mean of the repeats, with an interval over patients."""
    first = pooled.repeats[0]
    measures = [_measure(part, pooled.malignant) for part in pooled.repeats]
    even = np.ones((1, len(pooled.malignant)))
    counts = {
        "images": len(pooled.malignant),
        "melanomas": int(pooled.malignant.sum()),
        "patients": first["patient_id"].nunique(),
    }
    by_repeat = {str(number): float(measure(even)["roc_auc"][0]) for number, measure in enumerate(measures, start=1)}
    with_both = np.asarray(first.groupby("patient_id")["target"].transform("nunique") == 2)
    bases = {"sensitivity": pooled.malignant, "specificity": ~pooled.malignant}
    bases |= {f"same_patient_{name}roc_auc": with_both for name in SCORED}
    figures = mean_figures(measures, pooled.resamples, pooled.confidence, MOST | dict.fromkeys(GAINS), bases)
    return {**figures, "roc_auc_by_repeat": by_repeat, "counts": counts}


def pooled_groups(pooled: Pooled, groups: pd.DataFrame) -> dict[str, object]:
    """Return the figures of `group_figures`, the mean of the repeats; `groups` as `image_groups`, in row order."""
    said = ("score", "decision", "fold")
    scores, decisions, folds = (np.stack([part[name].to_numpy() for part in pooled.repeats]) for name in said)
    answered = Answered(pooled.malignant, scores, decisions == 1, folds)
    return {**group_figures(answered, groups, pooled.resamples, pooled.confidence)}


def pooled_curve(pooled: Pooled, score: str) -> Measure:
    """Return a function from weights `(B, N)` to the mean ROC curve of folds and repeats, by the column `score`.

    It gives the `sensitivity` on `measures.GRID`, `(B, G)`. Its area is the ROC AUC among images of one fold.
    """
    curves = [
        _within_folds(part, part[score].to_numpy(), pooled.malignant, lambda curve: metrics.sensitivity_on(curve, GRID))
        for part in pooled.repeats
    ]

    def measure(weights: Floats) -> dict[str, Floats]:
        return {"sensitivity": np.mean([curve(weights) for curve in curves], axis=0)}

    return measure


def write_pooled_roc(path: Path, pooled: Pooled, figures: Mapping[str, Any], drawn: bool) -> None:
    """Draw the ROC curve of the answers, its band, and the curves of two controls in the same folds.

    Args:
        path: of the PNG.
        pooled: the answers.
        figures: what `pooled_figures` returns of them.
        drawn: whether the images are; then the title says so, and no dermatologists are shown.
    """
    even = np.ones((1, len(pooled.malignant)))
    curves = [
        Roc(name, GRID, pooled_curve(pooled, score)(even)["sensitivity"][0], figures[area])
        for score, name, area in DRAWN
    ]
    spread = resample_images(pooled_curve(pooled, DRAWN[0][0]), pooled.resamples)["sensitivity"]
    band = percentile_ends(spread, pooled.confidence), pooled.confidence
    images = "drawn images" if drawn else "images"
    counts = "{images:,} {}, {melanomas:,} melanoma, {patients:,} patients".format(images, **figures["counts"])
    title = f"ROC, cross-validated\n{counts}"
    write_figure(path, lambda figure: draw_roc(figure, title, curves, band, figures, not drawn), height=6.0)


def _within_folds(
    part: pd.DataFrame, scores: Floats, malignant: Bools, measure: Callable[[metrics.Curve], Floats]
) -> Callable[[Floats], Floats]:
    """Return a function from weights `(B, N)` to what `measure` gives of the curve of a fold, its mean over folds."""
    return within_strata(
        lambda at: lambda weights: measure(metrics.sweep(scores[at], malignant[at], weights)),
        part["fold"].to_numpy(),
        malignant,
    )


def _measure(part: pd.DataFrame, malignant: Bools) -> Measure:
    """Return a function from weights `(B, N)` to the figures of one repeat, each `(B,)`."""
    probability, fold = part["probability"].to_numpy(), part["fold"].to_numpy()
    decided = part["decision"].to_numpy() == 1
    brightness = part["brightness"].to_numpy() + FAR * fold
    patient = pd.factorize(part["patient_id"])[0]
    areas = {}
    for name in SCORED:
        score = part[f"{name}score"].to_numpy()
        areas[f"{name}roc_auc"] = stratified_auc(score, malignant, fold)
        areas[f"brightness_matched_{name}roc_auc"] = matched_auc(score, malignant, brightness, MATCHED)
        areas[f"same_patient_{name}roc_auc"] = same_patient_auc(score, malignant, patient)
    average_precision = _within_folds(part, part["score"].to_numpy(), malignant, metrics.average_precision)

    def measure(weights: Floats) -> dict[str, Floats]:
        rates = metrics.decision_figures(decided, malignant, weights)
        found = {name: measured(weights) for name, measured in areas.items()}
        area = found.pop("roc_auc")
        return {
            "roc_auc": area,
            "average_precision": average_precision(weights),
            **{name: rates[name] for name in ("balanced_accuracy", "sensitivity", "specificity", "ppv_isic2020")},
            "brier": metrics.brier(probability, malignant, weights),
            **metrics.calibration_line(probability, malignant, weights),
            **found,
            **{gain: found[of_control] - area for gain, of_control in GAINS.items()},
        }

    return measure
