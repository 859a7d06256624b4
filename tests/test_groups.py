from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.groups import AGE_BANDS, SIZE_BANDS, group_figures, image_groups
from isic_siamese.metrics import rank_auc
from tests.test_measures import some_answers

INDEX = pd.DataFrame(
    {
        "sex": ["male", "female", "", "male"],
        "age_approx": ["39", "45.0", "", "60"],
        "anatom_site_general_challenge": ["torso", "head/neck", "", "Lower extremity (left)"],
        "width": [640, 1872, 5184, 6000],
        "height": [480, 1053, 3456, 4000],
    }
)


def test_each_image_has_a_sex_an_age_band_a_site_and_a_size() -> None:
    groups = image_groups(INDEX)
    assert groups["sex"].tolist() == ["male", "female", "unknown", "male"]
    assert groups["age"].tolist() == ["below_40", "40_to_59", "unknown", "60_and_over"]
    assert groups["site"].tolist() == ["torso", "head_neck", "unknown", "lower_extremity_left"]
    assert groups["source_size"].tolist() == list(SIZE_BANDS)


@pytest.mark.parametrize(("width", "band"), [(999, 0), (1000, 1), (4999, 1), (5000, 2), (19999, 2), (20000, 3)])
def test_a_band_of_sizes_holds_its_lower_end(width: int, band: int) -> None:
    index = INDEX[:1].assign(width=width, height=1000)
    assert image_groups(index)["source_size"].tolist() == [SIZE_BANDS[band]]


@pytest.mark.parametrize(("age", "band"), [("0", 0), ("39.5", 0), ("40", 1), ("59", 1), ("60", 2), ("90", 2)])
def test_a_band_of_ages_holds_its_lower_end(age: str, band: int) -> None:
    assert image_groups(INDEX[:1].assign(age_approx=age))["age"].tolist() == [AGE_BANDS[band]]


def test_bands_come_from_low_to_high() -> None:
    answers = some_answers(4)
    resamples = draw_resamples(pd.Series(np.arange(4)), answers.malignant, 10, np.random.default_rng(0))
    content = group_figures(answers, image_groups(INDEX), resamples, 0.95)
    assert list(content) == ["sex", "age", "site", "source_size"]
    assert list(content["age"]) == ["below_40", "40_to_59", "60_and_over", "unknown"]
    assert list(content["source_size"]) == list(SIZE_BANDS)
    assert content["source_size"]["20_megapixels_and_over"] == {"images": 1, "melanomas": 0}


def test_groups_have_their_own_figures_and_those_with_too_few_of_a_class_have_counts_alone() -> None:
    answers = some_answers(160)  # every fourth is melanoma
    resamples = draw_resamples(pd.Series(np.arange(160) // 2), answers.malignant, 200, np.random.default_rng(0))
    of_image = np.where(np.arange(160) < 100, "a", np.where(np.arange(160) < 136, "b", "c"))
    content = group_figures(answers, pd.DataFrame({"sex": of_image}), resamples, 0.95)["sex"]
    assert content["b"] == {"images": 36, "melanomas": 9}
    assert content["c"] == {"images": 24, "melanomas": 6}
    part = answers.take(of_image == "a")
    area = content["a"]["roc_auc"]
    assert area["value"] == pytest.approx(roc_auc_score(part.malignant, part.scores))  # type: ignore[index]
    for name in ("roc_auc", "sensitivity", "specificity"):
        figure: dict[str, float] = content["a"][name]  # type: ignore[assignment]
        assert figure["low"] < figure["value"] < figure["high"]
    assert set(content["a"]) == {"images", "melanomas", "roc_auc", "sensitivity", "specificity"}


def test_a_group_of_which_all_melanomas_were_found_has_an_interval_over_its_own_patients() -> None:
    answers = some_answers(160)
    sure = replace(answers, decisions=answers.malignant)
    resamples = draw_resamples(pd.Series(np.arange(160) // 8), answers.malignant, 50, np.random.default_rng(0))
    groups = pd.DataFrame({"sex": np.where(np.arange(160) < 80, "a", "b")})  # two melanomas a patient, ten patients
    found = group_figures(sure, groups, resamples, 0.95)["sex"]["a"]["sensitivity"]
    assert found == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 10)), "high": 1.0}


def test_ten_images_of_each_class_are_enough_and_the_patients_of_the_rarer_one_decide_how_much_they_say() -> None:
    malignant = np.array([*[True] * 10, *[False] * 10, *[True] * 11, *[False] * 9])
    answers = replace(some_answers(40), malignant=malignant)
    patients = np.array([*np.arange(10) // 5, *np.arange(2, 12), *np.arange(12, 32)])  # two in "a" have a melanoma
    resamples = draw_resamples(pd.Series(patients), malignant, 200, np.random.default_rng(0))
    within = np.arange(40) < 20
    found = group_figures(answers, pd.DataFrame({"sex": np.where(within, "a", "b")}), resamples, 0.95)["sex"]
    assert found["b"] == {"images": 20, "melanomas": 11}
    part = answers.take(within)
    assert found["a"]["sensitivity"]["value"] == pytest.approx(part.decisions[:10].mean())  # type: ignore[index]
    assert found["a"]["specificity"]["value"] == pytest.approx(1 - part.decisions[10:].mean())  # type: ignore[index]
    area = rank_auc(part.scores, part.malignant)
    areas = resample_images(lambda weights: {"area": area(weights[:, within])}, resamples)["area"]
    assert found["a"]["roc_auc"] == figure(area(np.ones((1, 20)))[0], areas, 0.95, n_patients=2)
