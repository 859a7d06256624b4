from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from isic_siamese import out_of_fold
from isic_siamese.areas import same_patient_auc
from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.measures import GRID
from isic_siamese.metrics import calibration_line, ppv_at
from isic_siamese.out_of_fold import pool, pooled_curve, pooled_figures, pooled_groups, write_pooled_roc
from isic_siamese.roc import Roc, draw_roc
from tests.test_crossvalidation import EVALUATE
from tests.toy import index_of


def some_answers(repeats: int = 2) -> pd.DataFrame:
    """The answers of a cross-validation on 300 images, in which brightness tells the classes apart by itself.

    The two folds are halves of the patients, each with a scale of scores of its own.
    """
    rng = np.random.default_rng(0)
    malignant = rng.random(300) < 0.3
    index = index_of(malignant)
    parts = []
    for repeat in range(1, repeats + 1):
        probability = np.clip(0.35 + 0.25 * malignant + rng.normal(0, 0.2, 300), 0, 1)
        brightness = 120 + 40 * malignant + rng.normal(0, 20, 300)
        fold = 1 + pd.factorize(index["patient_id"])[0] % 2
        answers = index.assign(repeat=repeat, fold=fold, probability=probability, brightness=brightness)
        answers["decision"] = (probability > 0.45).astype(int)
        answers["mean_colour_score"] = brightness
        answers["score"] = probability + 10 * fold
        answers["untrained_encoder_score"] = answers["score"]
        answers["imagenet_features_score"] = answers["imagenet_votes_score"] = answers["score"]
        parts.append(answers.sample(frac=1, random_state=repeat))
    return pd.concat(parts)


def by_fold(part: pd.DataFrame, measure: Callable[[pd.DataFrame], Any]) -> Any:
    """The mean of `measure` over folds, which weigh as their pairs of a melanoma and a benign image."""
    folds = [fold for _, fold in part.groupby("fold")]
    pairs = [fold["target"].sum() * (1 - fold["target"]).sum() for fold in folds]
    return np.average([measure(fold) for fold in folds], axis=0, weights=pairs)


def area(part: pd.DataFrame, column: str = "score") -> float:
    return float(by_fold(part, lambda fold: roc_auc_score(fold["target"], fold[column])))


def test_pooled_figures_are_the_mean_of_the_repeats_and_their_interval_holds_it() -> None:
    answers = some_answers()
    figures: dict[str, Any] = pooled_figures(pool(answers, EVALUATE, seed=0))
    areas = [area(part) for _, part in answers.groupby("repeat")]
    auc = figures["roc_auc"]
    assert auc["value"] == pytest.approx(np.mean(areas))
    assert auc["low"] < auc["value"] < auc["high"] and 0.02 < auc["high"] - auc["low"] < 0.15
    assert figures["roc_auc_by_repeat"] == pytest.approx({"1": areas[0], "2": areas[1]})
    colour, matched = (figures[f"{name}mean_colour_roc_auc"] for name in ("", "brightness_matched_"))
    assert colour["value"] > 0.85 and matched["low"] < 0.6  # brightness tells nothing among images of equal brightness
    of_control = [area(part, "mean_colour_score") for _, part in answers.groupby("repeat")]
    assert colour["value"] == pytest.approx(np.mean(of_control))
    precision = [
        by_fold(part, lambda fold: average_precision_score(fold["target"], fold["score"]))
        for _, part in answers.groupby("repeat")
    ]
    assert figures["average_precision"]["value"] == pytest.approx(np.mean(precision))
    assert figures["imagenet_features_roc_auc"] == auc
    assert figures["imagenet_features_less_network_roc_auc"] == pytest.approx({"value": 0.0})
    n_melanoma = int(answers["target"].sum()) // 2
    assert figures["counts"] == {"images": 300, "melanomas": n_melanoma, "patients": 150}


def test_among_images_of_one_patient_only_its_own_melanomas_and_benign_lesions_are_compared() -> None:
    answers = some_answers(1).sort_values("row")
    # What tells patients apart, and nothing within one: those with a melanoma look alike.
    affected = answers.groupby("patient_id")["target"].transform("max")
    answers["score"] = 0.3 + 0.4 * affected
    figures: dict[str, Any] = pooled_figures(pool(answers, EVALUATE, seed=0))
    assert figures["roc_auc"]["value"] > 0.7 and figures["same_patient_roc_auc"]["value"] == 0.5
    assert 0.6 < figures["same_patient_mean_colour_roc_auc"]["value"] < 1


def test_calibration_and_predictive_value_are_those_of_the_pooled_probabilities() -> None:
    answers = some_answers(1)
    figures: dict[str, Any] = pooled_figures(pool(answers, EVALUATE, seed=0))
    probability, malignant = answers["probability"].to_numpy(), answers["target"].to_numpy() == 1
    assert figures["brier"]["value"] == pytest.approx(brier_score_loss(malignant, probability))
    line = calibration_line(probability, malignant, np.ones((1, 300)))
    for name, values in line.items():
        figure = figures[name]
        assert figure["value"] == pytest.approx(values[0])
        assert figure["high"] - figure["value"] == pytest.approx(figure["value"] - figure["low"])  # on no logit scale
    value = ppv_at(584 / 33_126, figures["sensitivity"]["value"], figures["specificity"]["value"])
    assert figures["ppv_isic2020"]["value"] == pytest.approx(value)


def test_groups_are_those_of_the_images_in_row_order() -> None:
    answers = some_answers()
    groups = pd.DataFrame({"half": np.where(np.arange(300) < 150, "first", "second")})
    by_group: Any = pooled_groups(pool(answers, EVALUATE, seed=0), groups)
    found = by_group["half"]["second"]
    part = answers[answers["row"] >= 150]
    assert found["images"] == 150 and found["melanomas"] == part["target"].sum() / 2
    areas = [area(one) for _, one in part.groupby("repeat")]
    assert found["roc_auc"]["value"] == pytest.approx(np.mean(areas))
    assert found["sensitivity"]["value"] == pytest.approx(part.query("target == 1")["decision"].mean())


@pytest.mark.parametrize("repeats", [1, 3])
def test_rates_are_those_of_the_decisions_and_a_gain_is_that_of_a_control_over_the_network(repeats: int) -> None:
    answers = some_answers(repeats)
    figures: dict[str, Any] = pooled_figures(pool(answers, EVALUATE, seed=0))
    hits = answers.query("target == 1").groupby("repeat")["decision"].mean().mean()
    alarms = answers.query("target == 0").groupby("repeat")["decision"].mean().mean()
    assert (figures["sensitivity"]["value"], figures["specificity"]["value"]) == pytest.approx((hits, 1 - alarms))
    assert figures["balanced_accuracy"]["value"] == pytest.approx((hits + 1 - alarms) / 2)
    assert list(figures["roc_auc_by_repeat"]) == [str(number) for number in range(1, repeats + 1)]
    gain = figures["mean_colour_less_network_roc_auc"]
    assert gain["value"] == pytest.approx(figures["mean_colour_roc_auc"]["value"] - figures["roc_auc"]["value"])
    assert gain["high"] - gain["value"] == pytest.approx(gain["value"] - gain["low"])


def test_the_pooled_curve_is_the_mean_of_those_of_folds_and_repeats() -> None:
    answers = some_answers()
    curve = pooled_curve(pool(answers, EVALUATE, seed=0), "score")(np.ones((1, 300)))["sensitivity"][0]
    each = [
        by_fold(part, lambda fold: np.interp(GRID, *roc_curve(fold["target"], fold["score"])[:2]))
        for _, part in answers.groupby("repeat")
    ]
    assert curve == pytest.approx(np.mean(each, axis=0))


def test_images_of_two_folds_are_not_alike_in_brightness() -> None:
    answers = some_answers(1).assign(brightness=120.0)  # so all of one fold are
    figures: dict[str, Any] = pooled_figures(pool(answers, EVALUATE, seed=0))
    assert figures["brightness_matched_roc_auc"]["value"] == pytest.approx(figures["roc_auc"]["value"])


def test_the_interval_within_patients_counts_those_who_have_both_kinds_of_lesion() -> None:
    answers = some_answers(1).sort_values("row")
    pooled = pool(answers, EVALUATE, seed=0)
    figures: dict[str, Any] = pooled_figures(pooled)
    within = same_patient_auc(answers["score"].to_numpy(), pooled.malignant, pooled.resamples.patient)
    spread = resample_images(lambda weights: {"area": within(weights)}, pooled.resamples)["area"]
    n = int((answers.groupby("patient_id")["target"].nunique() == 2).sum())
    assert n < pooled.resamples.n_rarer
    found = figures["same_patient_roc_auc"]
    assert found == pytest.approx(figure(found["value"], spread, EVALUATE.confidence, n))


@pytest.mark.parametrize("drawn", [False, True])
def test_the_picture_shows_the_pooled_curve_in_its_band_beside_the_controls(
    drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings: list[tuple[Any, ...]] = []

    def draw(*given: Any) -> None:
        drawings.append(given)
        draw_roc(*given)

    monkeypatch.setattr(out_of_fold, "draw_roc", draw)
    answers = some_answers()
    answers["imagenet_features_score"] = answers["mean_colour_score"]
    pooled = pool(answers, EVALUATE, seed=1)
    figures: dict[str, Any] = pooled_figures(pooled)
    write_pooled_roc(tmp_path / "roc.png", pooled, figures, drawn)
    assert (tmp_path / "roc.png").stat().st_size > 5000
    figure, title, curves, (ends, confidence), decisions, studies = drawings[0]
    assert isinstance(figure, Figure) and isinstance(curves[0], Roc)
    n_melanoma = figures["counts"]["melanomas"]
    images = f"300 {'drawn ' if drawn else ''}images, {n_melanoma} melanoma, 150 patients"
    assert title == f"ROC, cross-validated\n{images}"
    assert studies == (not drawn)
    assert [curve.area for curve in curves] == [figures[area] for _, _, area in out_of_fold.DRAWN]
    ours, features, colour, _ = (curve.sensitivity for curve in curves)
    assert (colour == features).all() and colour[10] != ours[10]
    first = answers[answers["repeat"] == 1].sort_values("row")
    rng = np.random.default_rng(1)
    resamples = draw_resamples(first["patient_id"], np.asarray(first["target"] == 1), EVALUATE.resamples, rng)
    spread = resample_images(pooled_curve(pooled, "score"), resamples)["sensitivity"]
    np.testing.assert_allclose(ends, np.quantile(spread, [0.025, 0.975], axis=0))
    assert confidence == 0.95 and decisions is figures
