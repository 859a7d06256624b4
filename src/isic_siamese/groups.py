"""Whom the classifier fails: its figures within groups of patients, body sites and cameras."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isic_siamese import metrics
from isic_siamese.areas import stratified_auc
from isic_siamese.arrays import Bools, Floats, Ints
from isic_siamese.bootstrap import Resamples, figure, rate_figure, resample_images

LEAST = 10  # images below which a share of them says nothing of a group
AGE_EDGES = (0, 40, 60, np.inf)  # years
AGE_BANDS = ("below_40", "40_to_59", "60_and_over")
# ISIC 2020 names no camera. Its sizes are those of a few, from 640x480 over 1872x1053 and 5184x3456 to 6000x4000.
SIZE_EDGES = (0, 1e6, 5e6, 20e6, np.inf)  # pixels
SIZE_BANDS = ("below_1_megapixel", "1_to_5_megapixels", "5_to_20_megapixels", "20_megapixels_and_over")
PATIENTS = {1: "with_melanoma", 0: "without_melanoma"}
BANDS = (*AGE_BANDS, *SIZE_BANDS)


@dataclass(frozen=True)
class Answered:
    """What was said of N images, in each of R repeats.

    Attributes:
        malignant: the label of each image, `(N,)`.
        scores: `(R, N)`.
        decisions: `(R, N)`.
        folds: number of the network that said so, int64 `(R, N)`; scores of two are not compared.
    """

    malignant: Bools
    scores: Floats
    decisions: Bools
    folds: Ints


def image_groups(index: pd.DataFrame) -> pd.DataFrame:
    """Return the group of each image, a word each; `unknown` where the release is silent.

    By `sex`, `age`, `site` and `diagnosis`, by `source_size`, its JPEG's pixels, and by `patient`, whether one of the
    images of the same patient is a melanoma.
    """
    words = ("sex", "anatom_site_general_challenge", "diagnosis")
    sex, site, diagnosis = (index[column].map(_word) for column in words)
    ages = pd.to_numeric(index["age_approx"].replace("", np.nan))
    age = _band(ages, AGE_EDGES, AGE_BANDS).where(ages.notna(), "unknown")
    size = _band(index["width"] * index["height"], SIZE_EDGES, SIZE_BANDS)
    affected = index["target"].groupby(index["patient_id"]).transform("max").map(PATIENTS)
    kinds = {"sex": sex, "age": age, "site": site, "diagnosis": diagnosis, "source_size": size, "patient": affected}
    return pd.DataFrame(kinds)


def _band(values: pd.Series, edges: Sequence[float], bands: Sequence[str]) -> pd.Series:
    return pd.cut(values, list(edges), right=False, labels=list(bands)).astype(object)


def _word(value: str) -> str:
    """Turn a value into a key: DVC reads a dot as a level, and a slash or a space hinders a command line."""
    return re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_") or "unknown"


def group_figures(
    answered: Answered, groups: pd.DataFrame, resamples: Resamples, confidence: float
) -> dict[str, dict[str, dict[str, object]]]:
    """Return counts and figures by kind of group and group, each with its interval; of several repeats their mean.

    Args:
        answered: what was said of the images.
        groups: what `image_groups` says of the same images.
        resamples: of their patients; those of all images, so that groups are resampled together.
        confidence: of the intervals.

    Returns:
        `sensitivity` and `specificity`, each where the group has `LEAST` images that it is a share of, and `roc_auc`
        where it has both.
    """
    return {
        str(kind): {
            name: _figures(answered, of_image.to_numpy(object) == name, resamples, confidence)
            for name in sorted(of_image.unique(), key=_place)
        }
        for kind, of_image in groups.items()
    }


def _place(name: str) -> tuple[int, str]:
    """Order bands from low to high, and other words by the alphabet."""
    return (BANDS.index(name) if name in BANDS else len(BANDS), name)


def _figures(answered: Answered, within: Bools, resamples: Resamples, confidence: float) -> dict[str, object]:
    malignant, part = answered.malignant, answered.malignant[within]
    bases = {"sensitivity": within & malignant, "specificity": within & ~malignant}
    rates = [name for name, base in bases.items() if base.sum() >= LEAST]
    found: dict[str, object] = {"images": len(part), "melanomas": int(part.sum())}
    scored = zip(answered.scores[:, within], answered.folds[:, within], strict=True)
    areas = [stratified_auc(scores, part, folds) for scores, folds in scored]

    def measure(weights: Floats) -> dict[str, Floats]:
        weights = weights[:, within]
        each = [metrics.decision_figures(decisions, part, weights) for decisions in answered.decisions[:, within]]
        means = {name: np.mean([figures[name] for figures in each], axis=0) for name in rates}
        return means | ({"roc_auc": np.mean([area(weights) for area in areas], axis=0)} if len(rates) == 2 else {})

    once, spread = measure(np.ones((1, len(malignant)))), resample_images(measure, resamples)
    patients = {name: resamples.count_patients(base) for name, base in bases.items()}
    if np.isfinite(once.get("roc_auc", [np.nan])[0]):  # not where no fold has both classes
        found["roc_auc"] = figure(once["roc_auc"][0], spread["roc_auc"], confidence, min(patients.values()))
    return found | {name: rate_figure(once[name][0], spread[name], confidence, patients[name]) for name in rates}
