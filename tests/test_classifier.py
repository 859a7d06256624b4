import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score

from isic_siamese.classifier import (
    Classifier,
    fit_classifier,
    platt_calibration,
    read_classifier,
    write_classifier,
)
from isic_siamese.errors import DataError, ParamsError


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
    with pytest.raises(ValueError, match="3 melanoma and 0 benign"):
        platt_calibration(np.zeros(3), np.ones(3, bool))


def test_votes_that_tell_nothing_apart_are_refused_by_the_parameters_that_make_them_so() -> None:
    rng, malignant = np.random.default_rng(0), np.arange(60) < 20
    scores = 0.4 + 1e-5 * rng.normal(size=60)
    with pytest.raises(ParamsError, match=r"evaluate: the votes .* \(scores differ by .*e-06\); bring evaluate.temp"):
        fit_classifier(scores, malignant, np.zeros(60), 5, 8)
    fit_classifier(100 * scores, malignant, np.zeros(60), 5, 8)


def test_the_threshold_is_the_share_of_melanomas_where_the_probability_is_true() -> None:
    rng = np.random.default_rng(6)
    probabilities = rng.random(200_000) ** 6  # 1 in 7 is a melanoma
    malignant = rng.random(len(probabilities)) < probabilities
    fitted = fit_classifier(np.log(probabilities / (1 - probabilities)), malignant, np.zeros(200_000), 5, 8)
    assert fitted.threshold == pytest.approx(malignant.mean())

    def quality(threshold: float) -> float:
        return float(balanced_accuracy_score(malignant, probabilities >= threshold))

    others = np.linspace(0.01, 0.6, 60)
    assert quality(fitted.threshold) > max(quality(threshold) for threshold in others) - 0.002
    assert quality(0.5) < quality(fitted.threshold) - 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_rank_the_classes_the_wrong_way_round_are_told(sign: int, caplog: pytest.LogCaptureFixture) -> None:
    scores, malignant = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True])
    fit_classifier(sign * scores, malignant, np.zeros(4), 5, 8)
    assert ("the wrong way round" in caplog.text) == (sign < 0)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_calibration_does_not_depend_on_the_unit_of_the_scores(scale: float) -> None:
    rng = np.random.default_rng(0)
    scores, malignant = rng.normal(size=100), rng.random(100) < 0.4
    slope, intercept = platt_calibration(scores, malignant)
    assert platt_calibration(scale * scores, malignant) == pytest.approx((slope / scale, intercept))


def test_a_classifier_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    malignant = rng.random(50) < 0.3
    fitted = fit_classifier(rng.normal(size=50), malignant, rng.random(50), 5, 8)
    write_classifier(tmp_path, fitted)
    assert read_classifier(tmp_path) == fitted


def test_one_validation_image_in_a_hundred_is_unfamiliar() -> None:
    rng = np.random.default_rng(7)
    nearest = rng.random(1000)
    fitted = fit_classifier(rng.normal(size=1000), nearest < 0.5, nearest, 5, 8)
    assert fitted.is_unfamiliar(nearest).sum() == 10
    assert fitted.is_unfamiliar(np.array([nearest.max(), fitted.familiar])).tolist() == [True, False]


def test_calibration_and_the_vote_agree_on_the_order() -> None:
    fitted = Classifier(12.0, -3.0, 0.2, 0.9, 5, 8)
    scores = np.array([-0.5, 0.0, 0.5])
    assert np.all(np.diff(fitted.probabilities(scores)) > 0)
    assert fitted.decide(np.array([0.19, 0.2])).tolist() == [False, True]


def test_a_probability_is_that_of_the_log_odds_which_calibration_moves() -> None:
    fitted = Classifier(2.0, -math.log(3), 0.2, 0.9, 5, 8)
    scores = np.array([0.0, math.log(3)])
    np.testing.assert_allclose(fitted.uncalibrated(scores), [1 / 2, 3 / 4])
    np.testing.assert_allclose(fitted.probabilities(scores), [1 / 4, 3 / 4])


NUMBERS = {"slope": 1, "intercept": 0, "threshold": 0.1, "familiar": 0.9, "neighbours": 5, "orientations": 8}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"slope": 0.1}),
        *(json.dumps(NUMBERS | wrong) for wrong in ({"orientations": 3}, {"neighbours": 0}, {"threshold": math.nan})),
    ],
)
def test_a_file_that_is_no_classifier_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "classifier.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"classifier\.json: not a classifier"):
        read_classifier(tmp_path)


def test_a_missing_classifier_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run 'dvc repro evaluate'"):
        read_classifier(tmp_path)
