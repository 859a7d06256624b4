import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score

from isic_siamese.classifier import (
    Classifier,
    best_threshold,
    fit_classifier,
    platt_calibration,
    read_classifier,
    write_classifier,
)
from isic_siamese.errors import DataError


def test_calibration_minimises_the_loss_that_platt_wrote_down() -> None:
    rng = np.random.default_rng(4)
    malignant = rng.random(200) < 0.1
    scores = rng.normal(size=200) * 0.1 + 0.1 * malignant
    n = int(malignant.sum())
    targets = np.where(malignant, (n + 1) / (n + 2), 1 / (200 - n + 2))

    def loss(line: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-(line[0] * scores + line[1])))
        return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x
    np.testing.assert_allclose(platt_calibration(scores, malignant), expected, rtol=1e-4)


def test_calibration_stays_finite_where_scores_separate_the_classes() -> None:
    slope, intercept = platt_calibration(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True]))
    assert 0 < slope < 100 and np.isfinite(intercept)


def test_calibration_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="0 melanoma and 3 benign"):
        platt_calibration(np.zeros(3), np.zeros(3, bool))


def test_the_threshold_lies_midway_between_the_neighbours_it_separates() -> None:
    assert best_threshold(np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.4)


def test_of_equal_thresholds_the_lowest_is_chosen() -> None:
    # Cutting at 0.85 (one of two melanomas, no false alarm) is as good as at 0.25 (both, at one of two benign).
    probabilities = np.array([0.1, 0.5, 0.4, 0.9])
    malignant = np.array([False, False, True, True])
    assert best_threshold(probabilities, malignant) == pytest.approx(0.25)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_is_better_than_the_chosen_one(cases: list[tuple[int, bool]]) -> None:
    probabilities = np.array([score / 20 for score, _ in cases])
    malignant = np.array([label for _, label in cases])
    if malignant.all() or not malignant.any():
        return

    def quality(threshold: float) -> float:
        return float(balanced_accuracy_score(malignant, probabilities >= threshold))

    chosen = quality(best_threshold(probabilities, malignant))
    assert chosen >= max(quality(cut) for cut in [*probabilities, 1.1]) - 1e-12


def test_a_classifier_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    malignant = rng.random(50) < 0.3
    fitted = fit_classifier(rng.normal(size=50), malignant, 5, 8)
    write_classifier(tmp_path / "classifier.json", fitted)
    assert read_classifier(tmp_path / "classifier.json") == fitted


def test_calibration_and_the_vote_agree_on_the_order() -> None:
    fitted = Classifier(12.0, -3.0, 0.2, 5, 8)
    scores = np.array([-0.5, 0.0, 0.5])
    assert np.all(np.diff(fitted.probabilities(scores)) > 0)
    assert fitted.uncalibrated(scores)[1] == 0.5
    assert fitted.decide(np.array([0.19, 0.2])).tolist() == [False, True]


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"slope": 0.1})])
def test_a_file_that_is_no_classifier_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "classifier.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"classifier\.json: not a classifier"):
        read_classifier(path)


def test_a_missing_classifier_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run 'dvc repro evaluate'"):
        read_classifier(tmp_path / "classifier.json")
