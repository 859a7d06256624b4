from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logit

from isic_siamese import bootstrap
from isic_siamese.areas import rank_auc
from isic_siamese.arrays import Bools, Floats
from isic_siamese.bootstrap import (
    add_intervals,
    clopper_pearson,
    draw_resamples,
    figure,
    mean_figures,
    percentile_ends,
    rate_figure,
    resample_images,
    resample_pairs,
)
from isic_siamese.metrics import ISIC_2020, decision_figures, ppv_at

PATIENTS = pd.Series(["c", "a", "b", "a", "d", "d", "e"])
MALIGNANT = np.array([True, False, False, True, False, False, False])  # patients a and c have one


def test_each_resample_has_as_many_patients_of_each_kind_as_the_split() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 50, np.random.default_rng(0))
    assert resamples.multiplicities.shape == (50, 5)
    affected = [0, 2]  # a, c
    assert (resamples.multiplicities[:, affected].sum(axis=1) == 2).all()
    assert (np.delete(resamples.multiplicities, affected, axis=1).sum(axis=1) == 3).all()
    assert (resamples.multiplicities.std(axis=0) > 0).all()
    alone = draw_resamples(PATIENTS, np.asarray(PATIENTS == "c"), 50, np.random.default_rng(0))
    assert (alone.multiplicities[:, 2] == 1).all()


def test_all_images_of_a_patient_are_drawn_together() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 20, np.random.default_rng(0))
    weights = resample_images(lambda w: {"weights": w}, resamples)["weights"]
    assert weights.shape == (20, 7)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 3])
    np.testing.assert_array_equal(weights[:, 4], weights[:, 5])


def test_a_pair_occurs_as_often_as_both_of_its_patients_together() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 20, np.random.default_rng(0))
    images = resample_images(lambda w: {"weights": w}, resamples)["weights"]
    left, right = np.array([0, 1]), np.array([2, 6])
    pairs = resample_pairs(lambda w: {"weights": w}, resamples, left, right)["weights"]
    np.testing.assert_array_equal(pairs, images[:, left] * images[:, right])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(weights: Floats) -> dict[str, Floats]:
        return {"total": weights.sum(axis=1), "twice": 2 * weights}

    resamples = draw_resamples(PATIENTS, MALIGNANT, 20, np.random.default_rng(0))
    whole = resample_images(measure, resamples)
    monkeypatch.setattr(bootstrap, "CHUNK", 21)
    parts = resample_images(measure, resamples)
    assert {name: values.tolist() for name, values in parts.items()} == {k: v.tolist() for k, v in whole.items()}


def test_the_seed_alone_decides_the_draw() -> None:
    one, two, other = (
        draw_resamples(PATIENTS, MALIGNANT, 20, np.random.default_rng(seed)).multiplicities for seed in (1, 1, 2)
    )
    assert (one == two).all() and (one != other).any()


@pytest.mark.parametrize("n", [8, 400])
def test_the_interval_of_a_mean_is_that_of_student(n: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=n)
    ids = pd.Series(np.arange(n).astype(str)).str.zfill(3)
    resamples = draw_resamples(ids, np.zeros(n, bool), 20_000, rng)
    means = resample_images(lambda w: {"mean": w @ values / w.sum(axis=1)}, resamples)["mean"]
    found = figure(values.mean(), means, 0.95, resamples.n_rarer, most=None)
    textbook = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(textbook), rel=0.02)


@pytest.mark.parametrize("most", [1.0, 0.2])
def test_a_figure_of_limited_range_has_an_interval_within_it_that_is_even_in_logits(most: float) -> None:
    resampled = most * np.random.default_rng(0).normal(0.9, 0.1, 1000)
    found = figure(0.9 * most, resampled, 0.95, 6, most)
    low, value, high = (stats.logistic.ppf(found[name] / most) for name in ("low", "value", "high"))
    assert 0 < found["low"] < found["high"] < most
    assert value - low == pytest.approx(high - value)
    reach = stats.t.ppf(0.975, 5) * np.sqrt(6 / 5) * resampled.std(ddof=1) / most
    assert high - value == pytest.approx(reach / (0.9 * 0.1))


def test_where_a_curve_is_read_at_its_end_the_interval_is_that_of_percentiles() -> None:
    resampled = np.linspace(0.5, 1, 101)
    assert figure(1.0, resampled, 0.8, 7) == pytest.approx({"value": 1.0, "low": 0.55, "high": 1.0})
    assert figure(0.0, 1 - resampled, 0.8, 7) == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.45})


def test_the_interval_of_an_area_holds_the_truth_as_often_as_it_says_where_patients_are_few() -> None:
    """Six patients with a melanoma and six without, four images each, as alike as those of one patient are."""
    truth, n_draws, rng = 0.85, 300, np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 4)
    ids, malignant = pd.Series([f"{patient:02}" for patient in patients]), (np.arange(48) % 4 == 0) & (patients < 6)
    apart = np.sqrt(2) * stats.norm.ppf(truth)
    covered = {"ours": 0, "percentiles": 0}
    for _ in range(n_draws):
        scores = apart * malignant + np.sqrt(0.3) * rng.normal(size=12)[patients] + np.sqrt(0.7) * rng.normal(size=48)
        resamples = draw_resamples(ids, malignant, 200, rng)
        measure = partial(_area, scores, malignant)
        areas = resample_images(measure, resamples)["area"]
        found = figure(measure(np.ones((1, 48)))["area"][0], areas, 0.95, resamples.n_rarer)
        # Where all melanomas are above all others there is no interval, and nothing false is said.
        covered["ours"] += found.get("low", 0) <= truth <= found.get("high", 1)
        low, high = percentile_ends(areas, 0.95)
        covered["percentiles"] += low <= truth <= high
    assert covered["ours"] / n_draws >= 0.94
    assert covered["percentiles"] / n_draws < 0.90


def _area(scores: Floats, malignant: Bools, weights: Floats) -> dict[str, Floats]:
    return {"area": rank_auc(scores, malignant)(weights)}


def test_undefined_resamples_are_left_out_while_they_are_no_majority() -> None:
    for value in (0.5, 1.0):
        assert figure(value, np.array([0.4, np.nan, 0.6]), 0.9, 9) == figure(value, np.array([0.4, 0.6]), 0.9, 9)
    assert "low" in figure(0.5, np.array([0.4, np.nan, 0.6, np.nan]), 0.9, 9)
    assert figure(0.5, np.array([0.4, np.nan, 0.6, np.nan, np.nan]), 0.9, 9) == {"value": 0.5}


def test_one_patient_tells_nothing_of_others() -> None:
    assert figure(0.5, np.linspace(0, 1, 101), 0.95, 1) == {"value": 0.5}


def test_a_rate_of_which_all_resamples_agree_has_the_interval_of_clopper_and_pearson() -> None:
    certain = np.ones(200)
    # All of n right: the lower end is the rate at which that happens in 2.5 % of the cases.
    assert rate_figure(1.0, certain, 0.95, 7) == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 7)), "high": 1.0}
    none = {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.05 ** (1 / 4))}
    assert rate_figure(0.0, 0 * certain, 0.9, 4) == none
    found = rate_figure(0.58, 0.58 * certain, 0.95, 50)  # in floats 28.999999999999996 of 50
    assert (found["low"], found["high"]) == clopper_pearson(29, 50, 0.95)


def test_any_other_figure_of_which_all_resamples_agree_has_no_interval() -> None:
    assert figure(1.0, np.ones(200), 0.95, 7) == {"value": 1.0}


def test_rounding_is_no_spread() -> None:
    assert figure(1.0, np.where(np.arange(100) < 50, 1.0, 1 - 1e-16), 0.95, 7) == {"value": 1.0}


def test_a_figure_that_does_not_exist_is_left_out_of_a_mean() -> None:
    resamples = draw_resamples(pd.Series(["a", "b", "c", "d"]), np.arange(4) < 2, 20, np.random.default_rng(0))
    measure = lambda weights: {"sum": weights.sum(axis=1), "none": np.full(len(weights), np.nan)}  # noqa: E731
    assert set(mean_figures([measure], resamples, 0.95, most={"sum": None})) == {"sum"}


@pytest.mark.parametrize("certain", ["sensitivity", "specificity"])
def test_where_resamples_agree_in_one_rate_the_balanced_accuracy_is_as_uncertain_as_both(certain: str) -> None:
    patients = pd.Series(list("abcdefgh"))
    malignant = np.arange(8) < 3
    right = {"sensitivity": np.where(malignant, 1, 0), "specificity": np.where(malignant, 0, 1)}
    right["specificity" if certain == "sensitivity" else "sensitivity"][[0, 7]] = 0
    bases = {"sensitivity": malignant, "specificity": ~malignant}
    resamples = draw_resamples(patients, malignant, 200, np.random.default_rng(0))

    def measure(weights: Floats) -> dict[str, Floats]:
        rates = {name: weights @ hits / (weights @ bases[name]) for name, hits in right.items()}
        return rates | {"balanced_accuracy": (rates["sensitivity"] + rates["specificity"]) / 2}

    found = mean_figures([measure, measure], resamples, 0.95, {}, bases)
    assert found[certain] == rate_figure(1.0, np.ones(200), 0.95, int(bases[certain].sum()))
    for end in ("low", "high"):
        assert found["balanced_accuracy"][end] == np.mean([found[name][end] for name in bases])
    assert mean_figures([measure], resamples, 0.95, {})[certain] == {"value": 1.0}


def test_the_interval_of_a_predictive_value_follows_from_the_spread_of_both_rates() -> None:
    values = {"sensitivity": 0.8, "specificity": 0.9}
    values["ppv_isic2020"] = float(ppv_at(ISIC_2020, *map(np.asarray, values.values())))
    rng = np.random.default_rng(0)
    spread = {"sensitivity": rng.normal(0.8, 0.01, 4000), "specificity": rng.normal(0.9, 0.01, 4000)}
    spread["ppv_isic2020"] = ppv_at(ISIC_2020, *spread.values())
    resamples = draw_resamples(PATIENTS, MALIGNANT, 1, rng)
    n = resamples.n_rarer
    found = add_intervals(values, spread, resamples, 0.95, {}, {})["ppv_isic2020"]
    # Of log odds: those of a rate and of its complement, whose errors are relative ones.
    error = np.hypot(0.01 / 0.8, 0.01 / 0.1) * np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)
    ends = expit(logit(found["value"]) + error * np.array([-1, 1]))
    assert [found["low"], found["high"]] == pytest.approx(ends, rel=0.05)


def test_the_interval_of_a_predictive_value_does_not_hang_on_the_few_resamples_without_a_false_alarm() -> None:
    """Six patients of each kind; the false alarms are those of four, and one resample in 730 has none."""
    image = np.arange(48)  # four of each patient
    ids, malignant = pd.Series([f"{patient:02}" for patient in image // 4]), (image % 4 == 0) & (image < 24)
    decisions = malignant & (image > 3) | np.isin(image, [26, 30, 35, 41])
    ends = []
    for seed in range(8):
        resamples = draw_resamples(ids, malignant, 2000, np.random.default_rng(seed))
        measure = partial(decision_figures, decisions, malignant)
        bases = {"sensitivity": malignant, "specificity": ~malignant}
        ends.append(mean_figures([measure], resamples, 0.95, {}, bases)["ppv_isic2020"]["high"])
    assert max(ends) < 1.2 * min(ends)


def test_a_predictive_value_of_one_has_the_percentiles_of_its_resamples() -> None:
    values = {"sensitivity": 0.5, "specificity": 1.0, "ppv_isic2020": 1.0}
    spread = {"sensitivity": np.full(100, 0.5), "specificity": np.linspace(0.9, 1, 100)}
    spread["ppv_isic2020"] = ppv_at(ISIC_2020, *spread.values())
    resamples = draw_resamples(PATIENTS, MALIGNANT, 1, np.random.default_rng(0))
    found = add_intervals(values, spread, resamples, 0.95, {}, {})["ppv_isic2020"]
    assert found["low"] == pytest.approx(percentile_ends(spread["ppv_isic2020"], 0.95)[0]) and found["high"] == 1


def test_a_rate_whose_resamples_differ_keeps_their_interval() -> None:
    resampled = np.linspace(0, 1, 101)
    assert rate_figure(0.5, resampled, 0.5, 7) == figure(0.5, resampled, 0.5, 7)


def test_the_patients_of_some_images_are_counted_once_each() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 1, np.random.default_rng(0))
    assert resamples.count_patients(np.array([False, True, False, True, True, True, False])) == 2
    assert resamples.n_rarer == 2  # a and c have a melanoma; a, b, d and e have something benign
    of_one = draw_resamples(PATIENTS, np.asarray(PATIENTS == "d"), 1, np.random.default_rng(0))
    assert of_one.n_rarer == 1  # of two images


def test_the_interval_of_a_difference_is_even_about_it_and_that_of_an_area_within_its_range() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 500, np.random.default_rng(0))
    values = np.array([0.9, 0.8, 0.4, 0.7, 0.9, 0.6, 0.9])
    repeats = [
        lambda weights: {name: weights @ values / weights.sum(axis=1) for name in ("gain", "area")},
        lambda weights: {name: weights @ values**2 / weights.sum(axis=1) for name in ("gain", "area")},
    ]
    found = mean_figures(repeats, resamples, 0.95, most={"gain": None})
    assert found["gain"]["value"] == found["area"]["value"] == pytest.approx((values.mean() + (values**2).mean()) / 2)
    below, above = (abs(found["gain"][end] - found["gain"]["value"]) for end in ("low", "high"))
    assert below == pytest.approx(above)
    assert found["gain"]["high"] > 1 > found["area"]["high"]


def test_percentiles_leave_out_as_many_resamples_on_either_side() -> None:
    values = np.random.default_rng(0).permutation(101)[:, None] * np.array([1.0, 2.0])
    np.testing.assert_allclose(percentile_ends(values, 0.8), [[10, 20], [90, 180]])
