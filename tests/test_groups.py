from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese.areas import rank_auc, stratified_auc
from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.groups import AGE_BANDS, SIZE_BANDS, Answered, group_figures, image_groups
from isic_siamese.measures import Answers
from tests.test_measures import some_answers

INDEX = pd.DataFrame(
    {
        "sex": ["male", "female", "", "male"],
        "age_approx": ["39", "45.0", "", "60"],
        "anatom_site_general_challenge": ["torso", "head/neck", "", "Lower extremity (left)"],
        "diagnosis": ["nevus", "unknown", "melanoma", "lichenoid keratosis"],
        "width": [640, 1872, 5184, 6000],
        "height": [480, 1053, 3456, 4000],
        "patient_id": ["IP_1", "IP_2", "IP_1", "IP_3"],
        "target": [0, 0, 1, 1],
    }
)


def figures_of(answers: Answers, *given: Any) -> dict[str, dict[str, dict[str, Any]]]:
    return group_figures(answered([answers]), *given)


def answered(repeats: list[Answers]) -> Answered:
    scores, decisions = (np.stack([getattr(part, name) for part in repeats]) for name in ("scores", "decisions"))
    return Answered(repeats[0].malignant, scores, decisions, np.zeros(scores.shape, np.int64))


def test_each_image_has_a_sex_an_age_band_a_site_a_diagnosis_a_size_and_a_kind_of_patient() -> None:
    groups = image_groups(INDEX)
    assert groups["sex"].tolist() == ["male", "female", "unknown", "male"]
    assert groups["age"].tolist() == ["below_40", "40_to_59", "unknown", "60_and_over"]
    assert groups["site"].tolist() == ["torso", "head_neck", "unknown", "lower_extremity_left"]
    assert groups["diagnosis"].tolist() == ["nevus", "unknown", "melanoma", "lichenoid_keratosis"]
    assert groups["source_size"].tolist() == list(SIZE_BANDS)
    assert groups["patient"].tolist() == ["with_melanoma", "without_melanoma", "with_melanoma", "with_melanoma"]


@pytest.mark.parametrize(("width", "band"), [(999, 0), (1000, 1), (4999, 1), (5000, 2), (19999, 2), (20000, 3)])
def test_a_band_of_sizes_holds_its_lower_end(width: int, band: int) -> None:
    index = INDEX[:1].assign(width=width, height=1000)
    assert image_groups(index)["source_size"].tolist() == [SIZE_BANDS[band]]


@pytest.mark.parametrize(("age", "band"), [("0", 0), ("39.5", 0), ("40", 1), ("59", 1), ("60", 2), ("90", 2)])
def test_a_band_of_ages_holds_its_lower_end(age: str, band: int) -> None:
    assert image_groups(INDEX[:1].assign(age_approx=age))["age"].tolist() == [AGE_BANDS[band]]


def test_a_group_whose_classes_no_fold_has_together_has_rates_and_no_area() -> None:
    answers = some_answers(80)  # every fourth is melanoma
    resamples = draw_resamples(pd.Series(np.arange(80)), answers.malignant, 100, np.random.default_rng(0))
    apart = replace(answered([answers]), folds=answers.malignant[None].astype(np.int64))
    content = group_figures(apart, pd.DataFrame({"sex": ["a"] * 80}), resamples, 0.95)["sex"]["a"]
    assert set(content) == {"images", "melanomas", "sensitivity", "specificity"}


def test_bands_come_from_low_to_high() -> None:
    answers = some_answers(4)
    resamples = draw_resamples(pd.Series(np.arange(4)), answers.malignant, 10, np.random.default_rng(0))
    content = figures_of(answers, image_groups(INDEX), resamples, 0.95)
    assert list(content) == ["sex", "age", "site", "diagnosis", "source_size", "patient"]
    assert list(content["age"]) == ["below_40", "40_to_59", "60_and_over", "unknown"]
    assert list(content["source_size"]) == list(SIZE_BANDS)
    assert content["source_size"]["20_megapixels_and_over"] == {"images": 1, "melanomas": 0}


def test_groups_have_their_own_figures_and_no_share_of_too_few_images() -> None:
    answers = some_answers(160)  # every fourth is melanoma
    resamples = draw_resamples(pd.Series(np.arange(160) // 2), answers.malignant, 200, np.random.default_rng(0))
    of_image = np.where(np.arange(160) < 100, "a", np.where(np.arange(160) < 136, "b", "c"))
    content = figures_of(answers, pd.DataFrame({"sex": of_image}), resamples, 0.95)["sex"]
    assert set(content["b"]) == {"images", "melanomas", "specificity"} and content["b"]["melanomas"] == 9
    spared = ~answers.decisions[(of_image == "b") & ~answers.malignant]
    assert content["b"]["specificity"]["value"] == pytest.approx(spared.mean())
    few = figures_of(answers, pd.DataFrame({"sex": np.where(np.arange(160) < 12, "a", "b")}), resamples, 0.95)["sex"]
    assert few["a"] == {"images": 12, "melanomas": 3}
    within = of_image == "a"
    area = content["a"]["roc_auc"]
    assert area["value"] == pytest.approx(roc_auc_score(answers.malignant[within], answers.scores[within]))
    found = figures_of(replace(answers, decisions=answers.malignant), pd.DataFrame({"sex": of_image}), resamples, 0.95)
    perfect = found["sex"]["a"]
    patients = {"sensitivity": len({n // 2 for n in range(0, 100, 4)}), "specificity": 50}  # an interval of its own
    for name, n in patients.items():
        assert perfect[name]["low"] == pytest.approx(0.025 ** (1 / n))
    for name in ("roc_auc", "sensitivity", "specificity"):
        figure: dict[str, float] = content["a"][name]
        assert figure["low"] < figure["value"] < figure["high"]
    assert set(content["a"]) == {"images", "melanomas", "roc_auc", "sensitivity", "specificity"}


def test_a_group_of_which_all_melanomas_were_found_has_an_interval_over_its_own_patients() -> None:
    answers = some_answers(160)
    sure = replace(answers, decisions=answers.malignant)
    resamples = draw_resamples(pd.Series(np.arange(160) // 8), answers.malignant, 50, np.random.default_rng(0))
    groups = pd.DataFrame({"sex": np.where(np.arange(160) < 80, "a", "b")})  # two melanomas a patient, ten patients
    found = figures_of(sure, groups, resamples, 0.95)["sex"]["a"]["sensitivity"]
    assert found == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 10)), "high": 1.0}


def test_ten_images_of_each_class_are_enough_and_the_patients_of_the_rarer_one_decide_how_much_they_say() -> None:
    malignant = np.array([*[True] * 11, *[False] * 9, *[True] * 10, *[False] * 10])
    answers = replace(some_answers(40), malignant=malignant)
    patients = np.array([*np.arange(12, 32), *np.arange(10) // 5, *np.arange(2, 12)])  # two in "a" have a melanoma
    resamples = draw_resamples(pd.Series(patients), malignant, 200, np.random.default_rng(0))
    within = np.arange(40) >= 20
    found = figures_of(answers, pd.DataFrame({"sex": np.where(within, "a", "b")}), resamples, 0.95)["sex"]
    assert set(found["b"]) == {"images", "melanomas", "sensitivity"} and found["b"]["melanomas"] == 11
    assert found["a"]["sensitivity"]["value"] == pytest.approx(answers.decisions[:10].mean())
    assert found["a"]["specificity"]["value"] == pytest.approx(1 - answers.decisions[10:20].mean())
    area = rank_auc(answers.scores[within], malignant[within])
    areas = resample_images(lambda weights: {"area": area(weights[:, within])}, resamples)["area"]
    assert found["a"]["roc_auc"] == figure(area(np.ones((1, 20)))[0], areas, 0.95, n_patients=2)


def test_a_figure_of_several_repeats_is_their_mean() -> None:
    one, other = some_answers(160, seed=0), some_answers(160, seed=1)
    resamples = draw_resamples(pd.Series(np.arange(160) // 2), one.malignant, 100, np.random.default_rng(0))
    groups = pd.DataFrame({"sex": np.where(np.arange(160) < 80, "a", "b")})
    both: Any = group_figures(answered([one, other]), groups, resamples, 0.95)["sex"]["b"]
    each = [figures_of(part, groups, resamples, 0.95)["sex"]["b"] for part in (one, other)]
    for name in ("roc_auc", "sensitivity", "specificity"):
        values = [part[name]["value"] for part in each]
        assert values[0] != values[1] and both[name]["value"] == pytest.approx(np.mean(values))
        assert both[name]["low"] < both[name]["value"] < both[name]["high"]


def test_in_a_group_only_images_of_one_fold_are_ranked() -> None:
    answers = some_answers(160)
    fold = np.arange(160) % 3
    said = Answered(answers.malignant, answers.scores[None] + 10 * fold, answers.decisions[None], fold[None])
    resamples = draw_resamples(pd.Series(np.arange(160) // 2), answers.malignant, 100, np.random.default_rng(0))
    within = np.arange(160) < 100
    found: Any = group_figures(said, pd.DataFrame({"sex": np.where(within, "a", "b")}), resamples, 0.95)["sex"]["a"]
    area = stratified_auc(answers.scores[within], answers.malignant[within], fold[within])
    assert found["roc_auc"]["value"] == pytest.approx(area(np.ones((1, 100)))[0])
