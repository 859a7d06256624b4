from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from isic_siamese import metrics
from isic_siamese.areas import rank_auc
from isic_siamese.arrays import Bools, Floats
from isic_siamese.metrics import sweep

Sample = tuple[Floats, Bools, Floats]


def sample(n: int = 60, rows: int = 5, seed: int = 0, ties: bool = True) -> Sample:
    """Scores with ties, labels, and whole-number weights, some of them zero."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) < n // 4
    scores = rng.normal(size=n) + positive
    weights = rng.integers(0, 4, size=(rows, n)).astype(float)
    weights[:, [0, n - 1]] = 1  # each class is there
    return (scores.round(1) if ties else scores), positive, weights


def slow_partial_auc(y: Bools, scores: Floats, weights: Floats, sensitivity: float) -> float:
    """ISIC 2024's way: classes and scores turned round, then the area up to a rate, freed of scikit-learn's scaling."""
    most = 1 - sensitivity
    scaled = sk.roc_auc_score(~y, -scores, sample_weight=weights, max_fpr=most)
    least = 0.5 * most**2
    return float(least + (most - least) * (scaled - 0.5) / 0.5)


def slow_specificity_at(y: Bools, scores: Floats, weights: Floats, sensitivity: float) -> float:
    fpr, tpr, _ = sk.roc_curve(y, scores, sample_weight=weights, drop_intermediate=False)
    return float(1 - fpr[tpr >= sensitivity - 1e-12].min())


def slow_sensitivity_at(y: Bools, scores: Floats, weights: Floats, specificity: float) -> float:
    fpr, tpr, _ = sk.roc_curve(y, scores, sample_weight=weights, drop_intermediate=False)
    return float(tpr[1 - fpr >= specificity - 1e-12].max())


ORACLES: dict[str, tuple[Callable[[metrics.Curve], Floats], Callable[[Bools, Floats, Floats], float]]] = {
    "roc_auc": (metrics.roc_auc, lambda y, s, w: float(sk.roc_auc_score(y, s, sample_weight=w))),
    "average_precision": (
        metrics.average_precision,
        lambda y, s, w: float(sk.average_precision_score(y, s, sample_weight=w)),
    ),
    "partial_auc": (lambda c: metrics.partial_auc(c, 0.8), lambda y, s, w: slow_partial_auc(y, s, w, 0.8)),
    "specificity_at": (lambda c: metrics.specificity_at(c, 0.8), lambda y, s, w: slow_specificity_at(y, s, w, 0.8)),
    "sensitivity_at": (lambda c: metrics.sensitivity_at(c, 0.8), lambda y, s, w: slow_sensitivity_at(y, s, w, 0.8)),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("ties", [True, False])
def test_a_curve_measure_equals_scikit_learn_in_each_resample(name: str, ties: bool) -> None:
    scores, positive, weights = sample(ties=ties)
    fast, slow = ORACLES[name]
    expected = [slow(positive, scores, row) for row in weights]
    np.testing.assert_allclose(fast(sweep(scores, positive, weights)), expected, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 3)), min_size=2, max_size=25))
def test_curve_measures_equal_scikit_learn_however_scores_tie(cases: list[tuple[int, bool, int]]) -> None:
    scores = np.array([case[0] for case in cases], float)
    positive = np.array([case[1] for case in cases])
    weights = np.array([[case[2] for case in cases]], float)
    if positive.all() or not positive.any():
        return
    curve = sweep(scores, positive, weights)
    for name, (fast, slow) in ORACLES.items():
        assert fast(curve)[0] == pytest.approx(slow(positive, scores, weights[0]), abs=1e-12), name


def test_a_share_that_is_just_reached_counts_whatever_its_last_digit() -> None:
    in_turn = np.arange(200) % 2 == 0  # a positive, a negative, and so on
    curve = sweep(-np.arange(200.0), in_turn, np.ones((1, 200)))
    for share in np.arange(1, 101) / 100:
        assert metrics.specificity_at(curve, share)[0] == pytest.approx(1.01 - share)
        assert metrics.sensitivity_at(curve, share)[0] == pytest.approx(1.01 - share)


def test_a_perfect_order_gets_every_area_in_full() -> None:
    curve = sweep(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]), np.ones((1, 4)))
    assert metrics.roc_auc(curve)[0] == 1
    assert metrics.average_precision(curve)[0] == 1
    assert metrics.partial_auc(curve, 0.8)[0] == pytest.approx(0.2)


def test_equal_scores_have_no_skill() -> None:
    positive = np.array([True, False, False, False])
    curve = sweep(np.zeros(4), positive, np.ones((1, 4)))
    assert metrics.roc_auc(curve)[0] == rank_auc(np.zeros(4), positive)(np.ones((1, 4)))[0] == 0.5
    assert metrics.average_precision(curve)[0] == 0.25
    assert metrics.partial_auc(curve, 0.8)[0] == pytest.approx(0.02)  # of the triangle above the diagonal


def test_a_weight_counts_like_that_many_copies() -> None:
    scores, positive, weights = sample(rows=1)
    copies = weights[0].astype(int)
    repeated = sweep(scores.repeat(copies), positive.repeat(copies), np.ones((1, copies.sum())))
    assert metrics.roc_auc(sweep(scores, positive, weights)) == pytest.approx(metrics.roc_auc(repeated))


def test_a_resample_without_the_class_has_no_rate() -> None:
    curve = sweep(np.array([0.0, 1.0]), np.array([False, True]), np.array([[1.0, 0.0]]))
    assert np.isnan(metrics.roc_auc(curve)).all()


def test_decision_figures_equal_scikit_learn_in_each_resample() -> None:
    scores, positive, weights = sample()
    decision = scores > 0.7
    got = metrics.decision_figures(decision, positive, weights)
    for row, weight in enumerate(weights):
        as_isic2020 = weight * np.where(positive, 584 / weight[positive].sum(), 32_542 / weight[~positive].sum())
        expected = {
            "accuracy": sk.accuracy_score(positive, decision, sample_weight=weight),
            "balanced_accuracy": sk.balanced_accuracy_score(positive, decision, sample_weight=weight),
            "sensitivity": sk.recall_score(positive, decision, sample_weight=weight),
            "specificity": sk.recall_score(~positive, ~decision, sample_weight=weight),
            "ppv": sk.precision_score(positive, decision, sample_weight=weight),
            "npv": sk.precision_score(~positive, ~decision, sample_weight=weight),
            "f1": sk.f1_score(positive, decision, sample_weight=weight),
            "ppv_isic2020": sk.precision_score(positive, decision, sample_weight=as_isic2020),
        }
        assert {name: values[row] for name, values in got.items()} == pytest.approx(expected)


def test_decision_figures_of_a_table_worked_by_hand() -> None:
    # 3 hits, 1 miss, 2 false alarms, 4 rightly spared.
    decision = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    got = metrics.decision_figures(decision, positive, np.ones((1, 10)))
    assert {name: round(float(values[0]), 4) for name, values in got.items()} == {
        "accuracy": 0.7,
        "balanced_accuracy": 0.7083,
        "sensitivity": 0.75,
        "specificity": 0.6667,
        "ppv": 0.6,
        "npv": 0.8,
        "f1": 0.6667,
        "ppv_isic2020": 0.0388,
    }


def test_a_predictive_value_of_nothing_flagged_does_not_exist() -> None:
    got = metrics.decision_figures(np.zeros(2, bool), np.array([True, False]), np.ones((1, 2)))
    assert np.isnan(got["ppv"][0]) and got["npv"][0] == 0.5


def test_brier_equals_scikit_learn_in_each_resample() -> None:
    scores, positive, weights = sample()
    probabilities = 1 / (1 + np.exp(-scores))
    expected = [sk.brier_score_loss(positive, probabilities, sample_weight=row) for row in weights]
    np.testing.assert_allclose(metrics.brier(probabilities, positive, weights), expected)


def test_the_predictive_value_at_a_prevalence_is_that_of_a_table_worked_by_hand() -> None:
    # Of 1,000 lesions 20 are melanoma: 16 of them are flagged, and 98 of the 980 others.
    assert metrics.ppv_at(0.02, np.array([0.8]), np.array([0.9])) == pytest.approx([16 / (16 + 98)])
    scores, positive, weights = sample()
    rates = metrics.decision_figures(scores > 0.7, positive, weights)
    shares = (weights @ positive) / weights.sum(axis=1)
    for row, share in enumerate(shares):
        at = metrics.ppv_at(share, rates["sensitivity"], rates["specificity"])
        assert at[row] == pytest.approx(rates["ppv"][row])
    assert np.isnan(metrics.ppv_at(0.02, np.zeros(1), np.ones(1))).all()


def test_the_calibration_line_is_the_logistic_regression_of_the_outcome_on_the_log_odds() -> None:
    scores, positive, weights = sample(n=200)
    line = metrics.calibration_line(expit(2 * scores - 1), positive, weights)
    for row, weight in enumerate(weights):
        model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
        model.fit(2 * scores[:, None] - 1, positive, sample_weight=weight)
        assert line["calibration_slope"][row] == pytest.approx(model.coef_[0, 0], rel=1e-6)
        shifted = expit(2 * scores - 1 + line["calibration_intercept"][row])
        assert np.average(shifted, weights=weight) == pytest.approx(np.average(positive, weights=weight))


def test_true_probabilities_lie_on_a_line_of_slope_one_through_zero() -> None:
    rng = np.random.default_rng(0)
    probabilities = expit(rng.normal(0, 2, 20_000))
    once = np.ones((1, 20_000))
    line = metrics.calibration_line(probabilities, rng.random(20_000) < probabilities, once)
    assert line["calibration_slope"][0] == pytest.approx(1, abs=0.05)
    assert line["calibration_intercept"][0] == pytest.approx(0, abs=0.05)
    extreme = metrics.calibration_line(expit(2 * logit(probabilities)), rng.random(20_000) < probabilities, once)
    assert extreme["calibration_slope"][0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("probabilities", [[1e-9] * 6, [0.02, 0.03, 0.04, 0.01, 0.02, 0.02], [1e-3] * 3 + [1e-2] * 3])
def test_probabilities_that_are_far_too_low_have_the_shift_that_mends_them(probabilities: list[float]) -> None:
    """Newton's method alone would end far beyond it, where nothing has a slope."""
    given, positive = np.array(probabilities), np.arange(6) < 5
    intercept = metrics.calibration_line(given, positive, np.ones((1, 6)))["calibration_intercept"][0]
    assert expit(logit(given) + intercept).sum() == pytest.approx(5)


def test_resamples_of_rare_probabilities_at_another_prevalence_all_have_their_shift() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(-4, 1, 60)  # of 1.8 % in the median, where half are melanoma
    positive = rng.random(60) < expit(odds + 4)
    line = metrics.calibration_line(expit(odds), positive, rng.integers(0, 4, (500, 60)).astype(float))
    assert np.abs(line["calibration_intercept"] - 4).max() < 3 and np.abs(line["calibration_slope"]).max() < 5


@pytest.mark.parametrize("value", [0.3, 0.0, 1.0])
def test_probabilities_that_are_all_equal_have_no_slope(value: float) -> None:
    line = metrics.calibration_line(np.full(6, value), np.arange(6) % 3 == 0, np.ones((1, 6)))
    assert np.isnan(line["calibration_slope"]).all()
    assert line["calibration_intercept"][0] == pytest.approx(logit(1 / 3) - logit(np.clip(value, 1e-12, 1 - 1e-12)))


def test_classes_that_are_apart_or_absent_have_no_calibration_line() -> None:
    probabilities, positive = np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, False, True, True])
    line = metrics.calibration_line(probabilities, positive, np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]))
    assert np.isnan(line["calibration_slope"]).all()
    assert np.isnan(line["calibration_intercept"]).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("probabilities", "positive", "weights"),
    [
        ([0.2, 0.5, 0.5, 0.8], [0, 0, 1, 1], [1, 1, 1, 1]),
        ([0.2, 0.3, 0.5, 0.5, 0.5, 0.8], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]),
        ([0.3, 0.3, 0.3, 0.3, 0.3, 0.7], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]),
        ([0.3, 0.3, 0.3, 0.7], [1, 0, 1, 0], [2, 1, 3, 0]),  # a resample of one probability
    ],
)
def test_classes_that_are_apart_but_for_a_tie_have_no_calibration_slope(
    probabilities: list[float], positive: list[int], weights: list[float]
) -> None:
    line = metrics.calibration_line(np.array(probabilities), np.array(positive), np.array([weights], float))
    assert np.isnan(line["calibration_slope"]).all() and np.isfinite(line["calibration_intercept"]).all()


def test_probabilities_of_nought_and_one_have_a_calibration_line() -> None:
    positive = np.array([False, True, False, True, True])
    line = metrics.calibration_line(np.array([0.0, 0.0, 0.5, 1.0, 1.0]), positive, np.ones((1, 5)))
    assert np.isfinite(line["calibration_intercept"]).all() and 0 < line["calibration_slope"][0] < 1


def test_chance_alone_gives_true_probabilities_an_error_that_falls_with_their_number() -> None:
    rng = np.random.default_rng(0)
    few, many = (metrics.chance_calibration_error(rng.random(n), rng, 200) for n in (50, 5000))
    assert 0.08 < few < 0.16 and 0.008 < many < 0.016
    assert metrics.chance_calibration_error(np.repeat([0.0, 1.0], 25), rng, 200) == 0


def test_calibration_error_equals_a_loop_over_bins() -> None:
    scores, positive, _ = sample(n=200)
    probabilities = 1 / (1 + np.exp(-scores))
    bins = metrics.calibration_bins(probabilities)
    expected = 0.0
    for number in set(bins.tolist()):
        inside = bins == number
        expected += abs(np.mean(probabilities[inside] - positive[inside])) * inside.mean()
    assert metrics.calibration_error(probabilities, positive) == pytest.approx(expected)


def test_calibration_bins_hold_as_many_images_each_and_keep_equal_probabilities_together() -> None:
    assert np.bincount(metrics.calibration_bins(np.linspace(0, 1, 100) ** 4)).tolist() == [10] * 10
    assert len(set(metrics.calibration_bins(np.full(50, 0.3)).tolist())) == 1


def test_the_band_passes_through_the_curve_of_each_resample() -> None:
    scores, positive, weights = sample()
    curve = sweep(scores, positive, weights)
    grid = np.linspace(0, 1, 11)
    fpr, tpr, _ = sk.roc_curve(positive, scores, sample_weight=weights[2], drop_intermediate=False)
    np.testing.assert_allclose(metrics.sensitivity_on(curve, grid)[2], np.interp(grid, fpr, tpr))
