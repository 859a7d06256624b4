import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese.bootstrap import draw_resamples
from isic_siamese.classifier import Classifier
from isic_siamese.evaluation import (
    Evaluation,
    count_answers,
    curve_tables,
    evaluate,
    goal,
    measure_pairs,
    report,
)
from isic_siamese.measures import GRID, Answers
from tests.test_measures import some_answers
from tests.test_votes import unit

PATIENTS = pd.Series([f"IP_{number // 3}" for number in range(80)])


def test_pairs_are_measured_nearest_first_and_named_by_their_place_in_the_split() -> None:
    embeddings = unit(np.random.default_rng(0), 6)
    rows = np.array([1, 3, 4])
    pairs = pd.DataFrame({"left": [1, 3, 1], "right": [3, 4, 4], "left_view": 0, "right_view": 0, "same": [1, 0, 0]})
    measured = measure_pairs(pairs, embeddings, rows)
    assert (np.diff(measured.distances) >= 0).all()
    for left, right, same, distance in zip(
        measured.left, measured.right, measured.same, measured.distances, strict=True
    ):
        one, other = rows[left], rows[right]
        assert distance == pytest.approx(np.linalg.norm(embeddings[one] - embeddings[other]), abs=1e-6)
        assert same == ({one, other} == {1, 3})


def evaluated(answers: Answers, patients: pd.Series = PATIENTS) -> Evaluation:
    """The figures of 80 answers, beside those of pairs that say nothing."""
    rng = np.random.default_rng(1)
    pairs = pd.DataFrame({"left": np.arange(79), "right": np.arange(1, 80), "same": np.arange(79) % 2})
    measured = measure_pairs(pairs, unit(rng, 80), np.arange(80))
    return evaluate(answers, measured, draw_resamples(patients, answers.malignant, 200, rng), 0.95, rng)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluated(some_answers())


def test_every_figure_lies_within_its_interval(evaluation: Evaluation) -> None:
    for name, figure in evaluation.figures.items():
        if name.startswith("calibration_error") or name == "brier_by_prevalence":  # to the first resampling adds noise
            assert set(figure) == {"value"}
        else:
            assert figure["low"] <= figure["value"] <= figure["high"], name


def test_slope_and_intercept_of_the_calibration_lie_in_the_middle_of_their_intervals(evaluation: Evaluation) -> None:
    for name in ("calibration_slope", "calibration_intercept"):  # on no logit scale, though they may lie in [0, 1]
        figure = evaluation.figures[name]
        assert figure["high"] - figure["value"] == pytest.approx(figure["value"] - figure["low"])


def test_the_band_rises(evaluation: Evaluation) -> None:
    low, high = evaluation.band
    assert evaluation.band.shape == (2, len(GRID))
    assert (low <= high).all() and (np.diff(low) >= 0).all()


def test_the_report_is_json_with_the_goal_first_and_the_studies_in_a_group(evaluation: Evaluation) -> None:
    content = report(evaluation, Classifier(1.0, 0.0, 0.3, 0.9, 5, 1))
    json.dumps(content, allow_nan=False)
    assert list(content)[:2] == ["goal", "roc_auc"]
    assert set(content["at_dermatologists"]["brinker_2019"]) == {"sensitivity", "specificity"}  # type: ignore[index]


def test_the_goal_is_reached_by_the_lower_end_alone() -> None:
    assert "reaches 0.80" in goal({"value": 0.85, "low": 0.8, "high": 0.9})
    assert "does not reach 0.80" in goal({"value": 0.85, "low": 0.799, "high": 0.9})


@pytest.mark.parametrize("flags", ["right", "all"])
def test_where_resamples_agree_the_goal_is_judged_by_what_so_few_patients_can_tell(flags: str) -> None:
    """Two patients with melanoma, both found: the resamples agree on a sensitivity of 1, which is no certainty."""
    patients = pd.Series([f"IP_{number}" for number in range(80)])
    malignant = np.arange(80) < 2
    decisions = malignant if flags == "right" else np.ones(80, bool)
    figures = evaluated(replace(some_answers(), malignant=malignant, decisions=decisions), patients).figures
    rates = [figures["sensitivity"], figures["specificity"]]
    for name in ("balanced_accuracy", "accuracy_equal_classes"):
        assert figures[name]["low"] == np.mean([rate["low"] for rate in rates])
        assert figures[name]["high"] == np.mean([rate["high"] for rate in rates])
    assert "does not reach" in goal(figures["balanced_accuracy"])


def test_the_curves_are_those_of_the_scores_and_decisions() -> None:
    answers = some_answers()
    tables = curve_tables(answers)
    area = np.trapezoid(tables["roc"]["tpr"], tables["roc"]["fpr"])
    assert area == pytest.approx(roc_auc_score(answers.malignant, answers.scores))
    assert set(tables["confusion"]["actual"]) == {"melanoma", "benign"}
    agree = (tables["confusion"]["actual"] == tables["confusion"]["predicted"]).mean()
    assert agree == (answers.decisions == answers.malignant).mean()


def test_answers_are_counted() -> None:
    answers = some_answers()
    counts = count_answers(answers, PATIENTS)
    assert (counts["images"], counts["patients"], counts["melanomas"]) == (80, 27, 20)
    assert 0 < counts["melanomas_flagged"] <= 20 and 0 < counts["benign_flagged"] < 60
    assert 0 < counts["unfamiliar"] == (answers.distances[:, 0] > 0.4).sum() < 20


def test_pairs_of_one_class_that_lie_nearer_are_verified() -> None:
    answers = some_answers()
    embeddings = np.zeros((80, 2), np.float32)
    embeddings[np.arange(80), answers.malignant.astype(int)] = 1  # each class at a point of its own
    left, right = np.arange(79), np.arange(1, 80)
    same = (answers.malignant[left] == answers.malignant[right]).astype(int)
    pairs = measure_pairs(pd.DataFrame({"left": left, "right": right, "same": same}), embeddings, np.arange(80))
    rng = np.random.default_rng(0)
    resamples = draw_resamples(PATIENTS, answers.malignant, 100, rng)
    figure = evaluate(answers, pairs, resamples, 0.95, rng).figures["pair_verification_auc"]
    assert figure == {"value": 1.0}  # an interval of no width would claim certainty


def test_a_sensitivity_of_all_melanomas_has_an_interval_over_the_patients_who_have_one() -> None:
    answers = some_answers()
    sure = replace(answers, decisions=answers.decisions | answers.malignant)
    figure = evaluated(sure).figures["sensitivity"]
    n = PATIENTS[answers.malignant].nunique()
    assert n < 80 / 4 + 1
    assert figure == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / n)), "high": 1.0}


def test_the_interval_of_a_partial_area_ends_below_the_largest_that_there_is() -> None:
    answers, rng = some_answers(), np.random.default_rng(0)
    good = replace(answers, scores=answers.malignant + 0.4 * rng.normal(size=80))
    pairs = pd.DataFrame({"left": np.arange(79), "right": np.arange(1, 80), "same": np.arange(79) % 2})
    measured = measure_pairs(pairs, unit(rng, 80), np.arange(80))
    resamples = draw_resamples(PATIENTS, answers.malignant, 200, rng)
    found = evaluate(good, measured, resamples, 0.95, rng).figures["partial_auc"]
    assert 0.15 < found["value"] < found["high"] < 0.2
