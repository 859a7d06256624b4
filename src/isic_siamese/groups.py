"""Whom the classifier fails: its figures within groups of patients and body sites."""

import re

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk

from isic_siamese import metrics
from isic_siamese.bootstrap import Resamples, figure, resample_images
from isic_siamese.measures import Answers

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST = 10  # images of each class below which a figure says nothing of a group
AGE_EDGES = (0, 40, 60, 200)
AGE_BANDS = ("below_40", "40_to_59", "60_and_over")
COLUMNS = {"sex": "sex", "site": "anatom_site_general_challenge"}


def image_groups(index: pd.DataFrame) -> pd.DataFrame:
    """Return the group of each image by `sex`, `age` and `site`, a word each; `unknown` where the release is silent."""
    groups = {name: index[column].map(_word) for name, column in COLUMNS.items()}
    ages = pd.to_numeric(index["age_approx"].replace("", np.nan))
    bands = pd.cut(ages, AGE_EDGES, right=False, labels=AGE_BANDS).astype(object)
    return pd.DataFrame({"sex": groups["sex"], "age": bands.where(ages.notna(), "unknown"), "site": groups["site"]})


def _word(value: str) -> str:
    """Turn a value into a key: DVC reads a dot as a level, and a slash or a space hinders a command line."""
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") or "unknown"


def group_figures(
    answers: Answers, groups: pd.DataFrame, resamples: Resamples, confidence: float
) -> dict[str, dict[str, dict[str, object]]]:
    """Return counts and figures by kind of group and group, each with its interval.

    Args:
        answers: N of them.
        groups: what `image_groups` says of the same images.
        resamples: of their patients; those of the whole split, so that groups are resampled together.
        confidence: of the intervals.

    Returns:
        `roc_auc`, `sensitivity` and `specificity`, and none of them where a class has fewer than `LEAST` images.
    """
    content: dict[str, dict[str, dict[str, object]]] = {}
    for kind in map(str, groups):
        names = sorted(groups[kind].unique())
        content[kind] = {
            name: _figures(answers, groups[kind].to_numpy(object) == name, resamples, confidence) for name in names
        }
    return content


def _figures(answers: Answers, within: Bools, resamples: Resamples, confidence: float) -> dict[str, object]:
    part = answers.take(within)
    n_melanoma = int(part.malignant.sum())
    counts: dict[str, object] = {"images": len(part.malignant), "melanomas": n_melanoma}
    if min(n_melanoma, len(part.malignant) - n_melanoma) < LEAST:
        return counts
    values = {
        "roc_auc": sk.roc_auc_score(part.malignant, part.scores),
        "sensitivity": sk.recall_score(part.malignant, part.decisions),
        "specificity": sk.recall_score(~part.malignant, ~part.decisions),
    }
    spread = resample_images(lambda weights: _resampled(part, weights[:, within]), resamples)
    return counts | {name: figure(value, spread[name], confidence) for name, value in values.items()}


def _resampled(part: Answers, weights: Floats) -> dict[str, Floats]:
    decided = metrics.decision_figures(part.decisions, part.malignant, weights)
    area = metrics.roc_auc(metrics.sweep(part.scores, part.malignant, weights))
    return {"roc_auc": area, "sensitivity": decided["sensitivity"], "specificity": decided["specificity"]}
