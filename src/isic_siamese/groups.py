"""Whom the classifier fails: its figures within groups of patients, body sites and cameras."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from isic_siamese import metrics
from isic_siamese.arrays import Bools, Floats
from isic_siamese.bootstrap import Resamples, figure, rate_figure, resample_images
from isic_siamese.measures import Answers, rate_bases

LEAST = 10  # images of each class below which a figure says nothing of a group
AGE_EDGES = (0, 40, 60, np.inf)  # years
AGE_BANDS = ("below_40", "40_to_59", "60_and_over")
# ISIC 2020 names no camera. Its sizes are those of a few, from 640x480 over 1872x1053 and 5184x3456 to 6000x4000.
SIZE_EDGES = (0, 1e6, 5e6, 20e6, np.inf)  # pixels
SIZE_BANDS = ("below_1_megapixel", "1_to_5_megapixels", "5_to_20_megapixels", "20_megapixels_and_over")
BANDS = (*AGE_BANDS, *SIZE_BANDS)


def image_groups(index: pd.DataFrame) -> pd.DataFrame:
    """Return the group of each image, a word each: by `sex`, `age`, `site`, and by `source_size`, its JPEG's pixels.

    `unknown` where the release is silent.
    """
    sex, site = (index[column].map(_word) for column in ("sex", "anatom_site_general_challenge"))
    ages = pd.to_numeric(index["age_approx"].replace("", np.nan))
    age = _band(ages, AGE_EDGES, AGE_BANDS).where(ages.notna(), "unknown")
    size = _band(index["width"] * index["height"], SIZE_EDGES, SIZE_BANDS)
    return pd.DataFrame({"sex": sex, "age": age, "site": site, "source_size": size})


def _band(values: pd.Series, edges: Sequence[float], bands: Sequence[str]) -> pd.Series:
    return pd.cut(values, list(edges), right=False, labels=list(bands)).astype(object)


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
    return {
        str(kind): {
            name: _figures(answers, of_image.to_numpy(object) == name, resamples, confidence)
            for name in sorted(of_image.unique(), key=_place)
        }
        for kind, of_image in groups.items()
    }


def _place(name: str) -> tuple[int, str]:
    """Order bands from low to high, and other words by the alphabet."""
    return (BANDS.index(name) if name in BANDS else len(BANDS), name)


def _figures(answers: Answers, within: Bools, resamples: Resamples, confidence: float) -> dict[str, object]:
    part = answers.take(within)
    n_melanoma = int(part.malignant.sum())
    counts: dict[str, object] = {"images": len(part.malignant), "melanomas": n_melanoma}
    if min(n_melanoma, len(part.malignant) - n_melanoma) < LEAST:
        return counts
    value = sk.roc_auc_score(part.malignant, part.scores)
    rates = {
        "sensitivity": sk.recall_score(part.malignant, part.decisions),
        "specificity": sk.recall_score(~part.malignant, ~part.decisions),
    }
    area = metrics.rank_auc(part.scores, part.malignant)

    def measure(weights: Floats) -> dict[str, Floats]:
        weights = weights[:, within]
        return {"roc_auc": area(weights), **metrics.decision_figures(part.decisions, part.malignant, weights)}

    spread = resample_images(measure, resamples)
    patients = {name: resamples.count_patients(within & images) for name, images in rate_bases(answers).items()}
    n_rarer = min(patients[name] for name in rates)
    return counts | {
        "roc_auc": figure(value, spread["roc_auc"], confidence, n_rarer),
        **{name: rate_figure(rate, spread[name], confidence, patients[name]) for name, rate in rates.items()},
    }
