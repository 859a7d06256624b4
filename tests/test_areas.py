import numpy as np
import pytest

from isic_siamese.areas import matched_auc, rank_auc, same_patient_auc, stratified_auc, within_strata
from isic_siamese.metrics import roc_auc, sensitivity_on, sweep
from tests.test_metrics import sample


@pytest.mark.parametrize("ties", [True, False])
def test_the_area_by_ranks_is_that_under_the_curve(ties: bool) -> None:
    scores, positive, weights = sample(rows=20, ties=ties)
    weights[3, positive] = 0  # none of a class: no area
    by_rank = rank_auc(scores, positive)(weights)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(by_rank, roc_auc(sweep(scores, positive, weights)), atol=1e-12)
    assert np.isnan(by_rank[3]) and np.isfinite(np.delete(by_rank, 3)).all()


def test_the_area_by_ranks_of_three_scores_is_that_counted_by_hand() -> None:
    scores, positive = np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    # Of the four couples three are right and one is level; with the last image twice, of six five and one.
    areas = rank_auc(scores, positive)(np.array([[1.0, 1, 1, 1], [1, 1, 1, 2]]))
    assert areas == pytest.approx([3.5 / 4, 5.5 / 6])


def test_within_strata_only_images_of_one_are_compared() -> None:
    scores, positive, weights = sample()
    stratum = np.random.default_rng(1).integers(0, 3, len(scores))
    on_scales = scores + 10 * stratum  # each stratum its own
    wins = (np.sign(scores[positive][:, None] - scores[~positive][None]) + 1) / 2
    together = stratum[positive][:, None] == stratum[~positive][None]
    by_pairs = [
        (pairs * wins).sum() / pairs.sum()
        for pairs in (np.outer(row[positive], row[~positive]) * together for row in weights)
    ]
    np.testing.assert_allclose(stratified_auc(on_scales, positive, stratum)(weights), by_pairs)
    one = np.zeros(len(scores), np.int64)
    np.testing.assert_allclose(stratified_auc(scores, positive, one)(weights), rank_auc(scores, positive)(weights))


def test_a_stratum_without_one_of_the_classes_says_nothing() -> None:
    scores, positive = np.array([0.1, 0.9, 0.5, 0.4, 0.7]), np.array([False, True, True, True, False])
    measure = stratified_auc(scores, positive, np.array([1, 1, 2, 2, 3]))
    np.testing.assert_array_equal(measure(np.array([[1.0, 1, 1, 1, 1], [0, 1, 1, 1, 1]])), [1, np.nan])


def test_within_strata_a_curve_has_the_mean_of_their_areas() -> None:
    scores, positive, weights = sample()
    stratum, grid = np.arange(len(scores)) % 2, np.linspace(0, 1, 2001)
    curve = within_strata(
        lambda at: lambda drawn: sensitivity_on(sweep(scores[at], positive[at], drawn), grid), stratum, positive
    )
    areas = stratified_auc(scores, positive, stratum)(weights)
    np.testing.assert_allclose(np.trapezoid(curve(weights), grid, axis=1), areas, atol=2e-3)


def test_matched_auc_counts_only_pairs_that_are_alike_in_the_trait() -> None:
    scores = np.array([0.9, 0.2, 0.5, 0.2, 0.1])
    positive = np.array([True, True, False, False, False])
    trait = np.array([10.0, 20.0, 12.0, 23.0, 40.0])
    # Within 3: the first positive meets 0.5 and wins, the second meets 0.2 and ties. None meets the last.
    weights = np.array([[1.0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 2, 1, 1, 5], [0, 0, 1, 1, 1]])
    areas = matched_auc(scores, positive, trait, most=3)(weights)
    np.testing.assert_allclose(areas, [0.75, 1.0, 2 / 3, np.nan])


def test_matched_auc_is_the_plain_one_where_all_are_alike() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.4
    weights = rng.integers(0, 3, (20, 60)).astype(float)
    matched = matched_auc(scores, positive, rng.normal(size=60), most=np.inf)
    np.testing.assert_allclose(matched(weights), rank_auc(scores, positive)(weights))


def test_a_patient_who_is_drawn_twice_has_its_pairs_twice() -> None:
    patient, malignant = np.array([0.0, 0, 1, 1]), np.array([True, False, True, False])
    area = same_patient_auc(np.array([0.9, 0.1, 0.2, 0.3]), malignant, patient)  # one pair right, one wrong
    assert area(np.array([[1.0, 1, 1, 1], [2, 2, 1, 1], [0, 0, 1, 1]])) == pytest.approx([1 / 2, 2 / 3, 0])
