import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese.bootstrap import draw_resamples
from isic_siamese.groups import group_figures, image_groups
from tests.test_measures import some_answers

INDEX = pd.DataFrame(
    {
        "sex": ["male", "female", "", "male"],
        "age_approx": ["39", "45.0", "", "60"],
        "anatom_site_general_challenge": ["torso", "head/neck", "", "lower extremity"],
    }
)


def test_each_image_has_a_sex_an_age_band_and_a_site() -> None:
    groups = image_groups(INDEX)
    assert groups["sex"].tolist() == ["male", "female", "unknown", "male"]
    assert groups["age"].tolist() == ["below_40", "40_to_59", "unknown", "60_and_over"]
    assert groups["site"].tolist() == ["torso", "head_neck", "unknown", "lower_extremity"]


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
