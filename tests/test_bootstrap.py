import numpy as np
import pandas as pd
import pytest

from isic_siamese import bootstrap
from isic_siamese.arrays import Floats
from isic_siamese.bootstrap import draw_resamples, figure, interval, mean_figures, resample_images, resample_pairs

PATIENTS = pd.Series(["c", "a", "b", "a", "d", "d", "e"])
MALIGNANT = np.array([True, False, False, True, False, False, False])  # patients a and c have one


def test_each_resample_has_as_many_patients_of_each_kind_as_the_split() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 50, np.random.default_rng(0))
    assert resamples.multiplicities.shape == (50, 5)
    affected = [0, 2]  # a, c
    assert (resamples.multiplicities[:, affected].sum(axis=1) == 2).all()
    assert (np.delete(resamples.multiplicities, affected, axis=1).sum(axis=1) == 3).all()
    assert (resamples.multiplicities.std(axis=0) > 0).all()


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


def test_the_interval_of_a_mean_is_near_the_textbook_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    ids = pd.Series(np.arange(400).astype(str)).str.zfill(3)
    resamples = draw_resamples(ids, np.zeros(400, bool), 4000, rng)
    means = resample_images(lambda w: {"mean": w @ values / w.sum(axis=1)}, resamples)["mean"]
    low, high = interval(means, 0.95) or (0, 0)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_undefined_resamples_are_left_out_while_they_are_the_minority() -> None:
    assert interval(np.array([1.0, np.nan, 3.0]), 0.9) == pytest.approx((1.1, 2.9))
    assert interval(np.array([1.0, np.nan, np.nan]), 0.9) is None


def test_a_rate_of_which_all_resamples_agree_has_the_interval_of_clopper_and_pearson() -> None:
    certain = np.ones(200)
    # All of n right: the lower end is the rate at which that happens in 2.5 % of the cases.
    assert figure(1.0, certain, 0.95, 7) == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 7)), "high": 1.0}
    assert figure(0.0, 0 * certain, 0.9, 4) == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.05 ** (1 / 4))}


def test_any_other_figure_of_which_all_resamples_agree_has_no_interval() -> None:
    assert figure(1.0, np.ones(200), 0.95) == {"value": 1.0}


def test_rounding_is_no_spread() -> None:
    assert figure(1.0, np.where(np.arange(100) < 50, 1.0, 1 - 1e-16), 0.95) == {"value": 1.0}


def test_a_figure_that_does_not_exist_is_left_out_of_a_mean() -> None:
    resamples = draw_resamples(pd.Series(["a", "b", "c", "d"]), np.arange(4) < 2, 20, np.random.default_rng(0))
    measure = lambda weights: {"sum": weights.sum(axis=1), "none": np.full(len(weights), np.nan)}  # noqa: E731
    assert set(mean_figures([measure], resamples, 0.95)) == {"sum"}


def test_a_rate_whose_resamples_differ_keeps_their_interval() -> None:
    assert figure(0.5, np.linspace(0, 1, 101), 0.5, 7) == pytest.approx({"value": 0.5, "low": 0.25, "high": 0.75})


def test_the_patients_of_some_images_are_counted_once_each() -> None:
    resamples = draw_resamples(PATIENTS, MALIGNANT, 1, np.random.default_rng(0))
    assert resamples.count_patients(np.array([False, True, False, True, True, True, False])) == 2
