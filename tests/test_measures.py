from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from isic_siamese import metrics
from isic_siamese.classifier import Classifier
from isic_siamese.measures import (
    DERMATOLOGISTS,
    GRID,
    Answers,
    answer,
    point_measures,
    rate_bases,
    resampled_measures,
)
from isic_siamese.references import References
from isic_siamese.votes import Votes
from tests.test_metrics import slow_partial_auc
from tests.test_votes import unit


def some_answers(n: int = 80, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    malignant = np.arange(n) % 4 == 0
    scores = (0.1 * rng.normal(size=n) + 0.1 * malignant).round(2)
    classifier = Classifier(12.0, -2.0, 0.3, 0.9, 5, 1)
    probabilities = classifier.probabilities(scores)
    return Answers(
        malignant=malignant,
        scores=scores,
        probabilities=probabilities,
        uncalibrated=classifier.uncalibrated(scores),
        decisions=classifier.decide(probabilities),
        nearest=rng.integers(0, 30, size=(n, 5)),
        distances=(distances := np.sort(rng.random((n, 5)), axis=1)),
        nearest_malignant=rng.random((n, 5)) < 0.4,
        unfamiliar=distances[:, 0] > 0.4,
    )


def test_with_every_image_once_a_resample_gives_the_point_estimates() -> None:
    answers = some_answers()
    points = point_measures(answers)
    resampled = resampled_measures(answers, np.ones((2, 80)))
    not_resampled = {"calibration_error", "calibration_error_uncalibrated", "brier_by_prevalence"}
    assert set(points) | {"band"} == set(resampled) | not_resampled
    for name, value in points.items():
        if name not in not_resampled:
            assert resampled[name] == pytest.approx([value, value]), name
    assert resampled["band"].shape == (2, len(GRID))


def test_the_balanced_accuracy_is_that_on_as_many_benign_images_as_melanomas_on_average() -> None:
    answers, rng = some_answers(), np.random.default_rng(0)
    right = answers.decisions == answers.malignant
    melanomas, benign = np.flatnonzero(answers.malignant), np.flatnonzero(~answers.malignant)
    draws = [right[np.append(melanomas, rng.choice(benign, len(melanomas), replace=False))] for _ in range(4000)]
    assert np.mean(draws) == pytest.approx(point_measures(answers)["balanced_accuracy"], abs=0.005)


def test_a_resample_without_a_class_has_nan_for_what_needs_both() -> None:
    answers = some_answers()
    found = resampled_measures(answers, np.stack([answers.malignant, ~answers.malignant]).astype(float))
    assert np.isnan(found["roc_auc"]).all() and np.isnan(found["balanced_accuracy"]).all()
    assert np.isfinite(found["accuracy"]).all()


def test_answers_are_ranked_as_their_probabilities_are_even_where_the_calibration_turns_them_over() -> None:
    rng = np.random.default_rng(0)
    references = References(unit(rng, 12), pd.DataFrame({"target": np.arange(12) % 2}), Votes(np.ones(12), 0.0, 0.1))
    for slope in (-1.5, 1.5):
        found = answer(Classifier(slope, 0.1, 0.5, 0.5, 1, 1), references, unit(rng, 40), np.arange(40) % 3 == 0)
        np.testing.assert_allclose(expit(found.scores), found.probabilities)
        assert (found.decisions == (found.scores >= 0)).all()
        assert point_measures(found)["roc_auc"] == roc_auc_score(found.malignant, found.probabilities)


def test_the_partial_area_is_what_lies_above_four_fifths_sensitivity() -> None:
    answers = some_answers()
    points = point_measures(answers)
    slow = slow_partial_auc(answers.malignant, answers.scores, np.ones(80), 0.8)
    assert points["partial_auc"] == pytest.approx(slow)
    assert points["roc_auc"] == roc_auc_score(answers.malignant, answers.scores)


def test_what_calibration_gains_is_told_beside_the_votes_alone_and_the_prevalence_alone() -> None:
    answers = some_answers()
    points = point_measures(answers)
    error = metrics.calibration_error(answers.uncalibrated, answers.malignant)
    assert points["calibration_error_uncalibrated"] == error != points["calibration_error"]
    assert points["brier_by_prevalence"] == 0.25 * 0.75


def test_operating_points_lie_on_the_curve_where_dermatologists_stand() -> None:
    points = point_measures(some_answers())
    # 20 melanomas: a sensitivity of at least 0.866 means 18 of them, at a benign share that is a multiple of 1/60.
    assert (points["haenssle_2018.specificity"] * 60) == pytest.approx(round(points["haenssle_2018.specificity"] * 60))
    assert {name.partition(".")[0] for name in points if "." in name} == set(DERMATOLOGISTS)


def test_an_operating_point_that_is_just_good_enough_counts() -> None:
    scores = np.array([0.5, *[3.5] * 7, 1, 2, 3, 4, 5])  # eight melanomas, then five benign images
    answers = replace(some_answers(13), malignant=np.arange(13) < 8, scores=scores)
    points = point_measures(answers)
    assert points["brinker_2019.sensitivity"] == 7 / 8  # at the 60 % of 3 in 5
    assert points["phillips_2019.specificity"] == pytest.approx(0.6)  # at the 87.5 % of 7 in 8
    assert points["haenssle_2020.specificity"] == 0  # 89.0 % are eight in eight


def test_neighbours_are_as_many_as_are_shown_or_recall_asks_for() -> None:
    rng = np.random.default_rng(0)
    points = unit(rng, 12)
    table = pd.DataFrame({"target": np.arange(12) % 2})
    references = References(points, table, Votes(rng.normal(size=12), 0.0, 0.1))
    for shown, expected in ((1, 5), (7, 7)):
        found = answer(Classifier(2.0, 0.1, 0.5, 0.5, shown, 1), references, points, references.malignant)
        assert found.nearest.shape == found.distances.shape == found.nearest_malignant.shape == (12, expected)
        assert (found.nearest[:, 0] == np.arange(12)).all() and not found.unfamiliar.any()
        assert (found.nearest_malignant[:, 0] == found.malignant).all()
        np.testing.assert_array_equal(found.uncalibrated, expit(references.scores(points)))


def test_a_predictive_value_of_nothing_flagged_is_left_out() -> None:
    answers = some_answers()
    silent = Answers(**{**answers.__dict__, "decisions": np.zeros(80, bool)})
    assert "ppv" not in point_measures(silent) and "npv" in point_measures(silent)
    shrill = Answers(**{**answers.__dict__, "decisions": np.ones(80, bool)})
    assert "npv" not in point_measures(shrill) and "ppv" in point_measures(shrill)


def test_a_rate_is_the_share_of_its_base_that_was_answered_rightly() -> None:
    answers = some_answers()
    right = answers.decisions == answers.malignant
    points = point_measures(answers)
    for name, base in rate_bases(answers).items():
        assert right[base].mean() == pytest.approx(points[name]), name


def test_recall_is_the_share_that_finds_its_own_class_averaged_over_both() -> None:
    answers = some_answers(8)  # images 0 and 4 are melanoma
    labels = np.zeros((8, 5), bool)
    labels[0, 0] = labels[4, 4] = True
    labels[1] = True
    found = point_measures(Answers(**{**answers.__dict__, "nearest_malignant": labels}))
    assert found["recall_at_1"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert found["recall_at_5"] == pytest.approx((2 / 2 + 5 / 6) / 2)
