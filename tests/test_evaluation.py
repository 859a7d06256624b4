import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese import bootstrap, metrics
from isic_siamese.areas import rank_auc
from isic_siamese.arrays import Floats
from isic_siamese.bootstrap import draw_resamples, resample_images, resample_pairs
from isic_siamese.classifier import Classifier
from isic_siamese.evaluation import (
    Evaluation,
    answer_table,
    count_answers,
    curve_tables,
    evaluate,
    goal,
    measure_pairs,
    report,
)
from isic_siamese.measures import GRID, Answers
from isic_siamese.references import References
from isic_siamese.votes import Votes
from tests.test_measures import some_answers
from tests.test_votes import unit

PATIENTS = pd.Series([f"IP_{number // 3}" for number in range(80)])


def test_pairs_are_measured_nearest_first_and_named_by_their_place_in_the_split() -> None:
    embeddings = unit(np.random.default_rng(0), 6)
    rows = np.array([1, 3, 4, 5])
    left, right = rows[np.triu_indices(4, 1)[0]], rows[np.triu_indices(4, 1)[1]]
    pairs = pd.DataFrame({"left": left, "right": right, "left_view": 0, "right_view": 0, "same": (left + right) % 2})
    measured = measure_pairs(pairs, embeddings, rows)
    assert (np.diff(measured.distances) >= 0).all()
    for left, right, same, distance in zip(
        measured.left, measured.right, measured.same, measured.distances, strict=True
    ):
        one, other = rows[left], rows[right]
        assert distance == pytest.approx(np.linalg.norm(embeddings[one] - embeddings[other]), abs=1e-6)
        assert one < other and same == (one + other) % 2


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


def test_intervals_and_the_band_are_those_of_the_patients_drawn_again() -> None:
    answers, rng = some_answers(), np.random.default_rng(0)
    left, right, same = np.arange(79), np.arange(1, 80), np.arange(79) % 2
    pairs = measure_pairs(pd.DataFrame({"left": left, "right": right, "same": same}), unit(rng, 80), np.arange(80))
    resamples = draw_resamples(PATIENTS, answers.malignant, 200, rng)
    found = evaluate(answers, pairs, resamples, 0.8, rng)

    def measure(weights: Floats) -> dict[str, Floats]:
        curve = metrics.sweep(answers.scores, answers.malignant, weights)
        return {"area": metrics.roc_auc(curve), "band": metrics.sensitivity_on(curve, GRID)}

    spread = resample_images(measure, resamples)
    of_pairs = rank_auc(-pairs.distances, pairs.same)
    drawn = resample_pairs(lambda weights: {"area": of_pairs(weights)}, resamples, pairs.left, pairs.right)
    for name, areas in (("roc_auc", spread["area"]), ("pair_verification_auc", drawn["area"])):
        expected = bootstrap.figure(found.figures[name]["value"], areas, 0.8, n_patients=20)  # those with a melanoma
        assert found.figures[name] == pytest.approx(expected), name
    np.testing.assert_allclose(found.band, np.quantile(spread["band"], [0.1, 0.9], axis=0))


def test_the_error_that_chance_alone_gives_is_that_of_the_calibrated_probabilities(evaluation: Evaluation) -> None:
    expected = metrics.chance_calibration_error(some_answers().probabilities, np.random.default_rng(0))
    assert evaluation.figures["calibration_error_by_chance"]["value"] == pytest.approx(expected, rel=0.05)


def test_the_report_is_json_with_the_goal_first_and_the_studies_in_a_group(evaluation: Evaluation) -> None:
    content = report(evaluation, Classifier(1.0, 0.0, 0.3, 0.9, 5, 1))
    json.dumps(content, allow_nan=False)
    assert list(content)[:2] == ["goal", "roc_auc"]
    assert set(content["at_dermatologists"]["brinker_2019"]) == {"sensitivity", "specificity"}  # type: ignore[index]


def test_the_goal_is_reached_by_the_lower_end_alone() -> None:
    assert "reaches 0.80" in goal({"value": 0.85, "low": 0.8, "high": 0.9})
    assert "does not reach 0.80" in goal({"value": 0.85, "low": 0.799, "high": 0.9})


@pytest.mark.parametrize("flags", ["right", "all", "melanomas"])
def test_where_resamples_agree_the_goal_is_judged_by_what_so_few_patients_can_tell(flags: str) -> None:
    """Two patients with melanoma, both found: the resamples agree on a sensitivity of 1, which is no certainty."""
    patients = pd.Series([f"IP_{number}" for number in range(80)])
    malignant = np.arange(80) < 2
    decisions = {"right": malignant, "all": malignant | True, "melanomas": np.arange(80) % 9 < 2}[flags]
    figures = evaluated(replace(some_answers(), malignant=malignant, decisions=decisions), patients).figures
    rates = [figures["sensitivity"], figures["specificity"]]
    for end in ("low", "high"):
        assert figures["balanced_accuracy"][end] == np.mean([rate[end] for rate in rates])
    assert "does not reach" in goal(figures["balanced_accuracy"])


def test_the_curves_are_those_of_the_scores_and_decisions() -> None:
    answers = some_answers()
    tables = curve_tables(answers)
    area = np.trapezoid(tables["roc"]["tpr"], tables["roc"]["fpr"])
    assert area == pytest.approx(roc_auc_score(answers.malignant, answers.scores))
    assert tables["precision_recall"].iloc[-1].to_dict() == {"recall": 0, "precision": 1}  # of nothing flagged
    assert tables["confusion"]["actual"].value_counts().to_dict() == {"benign": 60, "melanoma": 20}
    agree = (tables["confusion"]["actual"] == tables["confusion"]["predicted"]).mean()
    assert agree == (answers.decisions == answers.malignant).mean()


def test_the_table_of_answers_names_the_nearest_reference() -> None:
    answers, names = some_answers(), np.array([f"ISIC_{number}" for number in range(80)])
    index = pd.DataFrame({"row": range(80), "image_name": names, "patient_id": PATIENTS, "target": answers.malignant})
    labels = np.arange(30) % 2
    others = pd.DataFrame({"image_name": [f"ISIC_9{number}" for number in range(30)], "target": labels})
    references = References(unit(np.random.default_rng(0), 30), others, Votes(np.zeros(30), 0.0, 0.1))
    table = answer_table(index, answers, references)
    assert table["image_name"].tolist() == names.tolist() and table["target"].sum() == 20
    assert table["nearest"].tolist() == [f"ISIC_9{number}" for number, *_ in answers.nearest]
    assert table["nearest_target"].tolist() == labels[answers.nearest[:, 0]].tolist()
    assert table["nearest_distance"].tolist() == answers.distances.min(axis=1).tolist()
    assert (table["probability"] >= 0.3).tolist() == (table["decision"] == 1).tolist()


def test_answers_are_counted() -> None:
    answers = some_answers()
    counts = count_answers(answers, PATIENTS)
    assert (counts["images"], counts["patients"], counts["melanomas"]) == (80, 27, 20)
    assert 0 < counts["melanomas_flagged"] <= 20
    assert counts["melanomas_flagged"] + counts["benign_flagged"] == answers.decisions.sum()
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


def test_a_rate_of_one_has_an_interval_over_the_patients_of_its_class() -> None:
    answers = some_answers()
    sure = replace(answers, decisions=answers.malignant, scores=answers.malignant.astype(np.float64))
    figures = evaluated(sure).figures
    for rate, n in (("sensitivity", 20), ("specificity", 27)):
        for name in (rate, f"haenssle_2018.{rate}"):
            assert figures[name] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / n)), "high": 1.0}


def test_the_interval_of_a_partial_area_ends_below_the_largest_that_there_is() -> None:
    answers, rng = some_answers(), np.random.default_rng(0)
    good = replace(answers, scores=answers.malignant + 0.4 * rng.normal(size=80))
    pairs = pd.DataFrame({"left": np.arange(79), "right": np.arange(1, 80), "same": np.arange(79) % 2})
    measured = measure_pairs(pairs, unit(rng, 80), np.arange(80))
    resamples = draw_resamples(PATIENTS, answers.malignant, 200, rng)
    found = evaluate(good, measured, resamples, 0.95, rng).figures["partial_auc"]
    assert 0.15 < found["value"] < found["high"] < 0.2
