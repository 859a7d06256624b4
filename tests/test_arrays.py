"""Labels as 0 and 1, and columns of a table, mean what bools and arrays mean, in each function that others may call."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from isic_siamese.areas import matched_auc, rank_auc, same_patient_auc, stratified_auc
from isic_siamese.bootstrap import draw_resamples
from isic_siamese.comparison import delong
from isic_siamese.metrics import (
    brier,
    calibration_error,
    calibration_line,
    decision_figures,
    roc_auc,
    sweep,
)
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.votes import fit_votes

N = 60
MALIGNANT = np.arange(N) % 3 == 0
SCORES = np.random.default_rng(0).normal(0, 1, N) + MALIGNANT
EVEN = np.ones((1, N))
POINTS = np.stack([np.cos(SCORES), np.sin(SCORES)], axis=1).astype(np.float32)
BLOCKS = PairsParams(views_per_block=16, pairs_per_block=16)
PATIENTS = pd.Series([f"IP_{number // 2}" for number in range(N)])

Labels = Any
CALLS: dict[str, Callable[[Labels], Any]] = {
    "sweep": lambda y: roc_auc(sweep(SCORES, y, EVEN)),
    "rank_auc": lambda y: rank_auc(SCORES, y)(EVEN),
    "stratified_auc": lambda y: stratified_auc(SCORES, y, np.arange(N) % 2)(EVEN),
    "same_patient_auc": lambda y: same_patient_auc(SCORES, y, np.arange(N) // 10)(EVEN),
    "matched_auc": lambda y: matched_auc(SCORES, y, np.abs(SCORES), 0.5)(EVEN),
    "decision_figures": lambda y: list(decision_figures(SCORES > 0, y, EVEN).values()),
    "decisions": lambda y: list(decision_figures(y, SCORES > 0, EVEN).values()),
    "brier": lambda y: brier(np.clip(SCORES, 0, 1), y, EVEN),
    "calibration_line": lambda y: list(calibration_line(np.clip(SCORES, 0, 1), y, EVEN).values()),
    "calibration_error": lambda y: calibration_error(np.clip(SCORES, 0, 1), y),
    "delong": lambda y: delong(y, SCORES, SCORES**3).p,
    "draw_resamples": lambda y: draw_resamples(PATIENTS, y, 3, np.random.default_rng(0)).n_rarer,
    "draw_pairs": lambda y: draw_pairs(np.arange(N), y, BLOCKS, np.random.default_rng(0), oversample=True).to_numpy(),
    "fit_votes": lambda y: fit_votes(POINTS, y).weights,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64])
def test_labels_may_be_0_and_1(name: str, dtype: npt.DTypeLike) -> None:
    expected = CALLS[name](MALIGNANT)
    np.testing.assert_array_equal(CALLS[name](MALIGNANT.astype(dtype)), expected)
    shuffled = pd.Series(MALIGNANT.astype(dtype), index=np.arange(N)[::-1])
    np.testing.assert_array_equal(CALLS[name](shuffled), expected)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("labels", [np.where(MALIGNANT, 1, -1), np.where(MALIGNANT, 1.0, np.nan)])
def test_other_labels_are_refused(name: str, labels: Labels) -> None:
    with pytest.raises(ValueError, match="wanted labels False and True, or 0 and 1, got"):
        CALLS[name](labels)


def test_scores_of_a_table_keep_their_order_and_must_be_finite() -> None:
    column, broken = pd.Series(SCORES, index=np.arange(N)[::-1]), np.where(SCORES > 1.5, np.nan, SCORES)
    calls: list[Callable[[Any], Any]] = [
        lambda scores: roc_auc(sweep(scores, MALIGNANT, EVEN)),
        lambda scores: rank_auc(scores, MALIGNANT)(EVEN),
        lambda scores: stratified_auc(scores, MALIGNANT, np.arange(N) % 2)(EVEN),
        lambda scores: same_patient_auc(scores, MALIGNANT, np.arange(N) // 10)(EVEN),
        lambda scores: matched_auc(scores, MALIGNANT, scores, 0.5)(EVEN),
        lambda scores: matched_auc(SCORES, MALIGNANT, scores, 0.5)(EVEN),
        lambda scores: delong(MALIGNANT, scores, SCORES**3).p,
        lambda scores: brier(scores, MALIGNANT, EVEN),
        lambda scores: calibration_error(scores, MALIGNANT),
    ]
    for call in calls:
        np.testing.assert_array_equal(call(column), call(SCORES))
        with pytest.raises(ValueError, match="wanted scores that are finite, got"):
            call(broken)


@pytest.mark.parametrize("name", ["sweep", "rank_auc", "matched_auc", "decision_figures", "brier", "calibration_line"])
@pytest.mark.parametrize("labels", [np.append(MALIGNANT, True), MALIGNANT[:-1]])
def test_labels_of_another_number_of_images_are_refused(name: str, labels: Labels) -> None:
    with pytest.raises((ValueError, IndexError)):
        CALLS[name](labels)
