"""How often a 95 % interval holds the truth: `python -m benchmarks.coverage --auc 0.85`.

Reads the index and splits that `dvc repro` made. Each draw is a test split of as many patients with a melanoma, and
without one, as there, with the images of patients of the release; with `--cohort`, of as many patients in all, as they
come, so that their share with a melanoma varies as well. Scores are drawn from normal distributions with a ROC AUC that
is known; those of one patient are alike. Beside our intervals stand the plain percentiles.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from scipy.stats import norm
from tqdm import trange

from isic_siamese import metrics
from isic_siamese.arrays import Bools, Floats
from isic_siamese.bootstrap import add_intervals, draw_resamples, percentile_ends, resample_images
from isic_siamese.errors import run_command
from isic_siamese.measures import MOST
from isic_siamese.shards import read_index
from isic_siamese.splits import read_splits, rows_of

SHARDS = Path("data/shards/train")
CONFIDENCE, RESAMPLES = 0.95, 1000
ALIKE = 0.3  # correlation of two scores of one patient's images of one class
MANY = 100_000  # patients by which the truth is found where no formula has it


@dataclass(frozen=True)
class Release:
    """Of what test splits are drawn.

    Attributes:
        labels: of patients with a melanoma, and of those without: whether each one's images show one.
        n: how many patients of either kind a test split has.
    """

    labels: tuple[list[Bools], list[Bools]]
    n: tuple[int, int]


@dataclass(frozen=True)
class Split:
    """A test split that was drawn: of each image the patient, the label and the score, `(N,)`."""

    patient: npt.NDArray[np.int64]
    malignant: Bools
    scores: Floats


def read_release() -> Release:
    """Read which images the patients of the release have, and how many patients its test split has."""
    index = read_index(SHARDS)
    test = set(index["patient_id"].iloc[rows_of(index, read_splits(Path("data/splits.csv")), "test")])
    labels: tuple[list[Bools], list[Bools]] = [], []
    n = [0, 0]
    for patient, images in index.groupby("patient_id"):
        malignant = images["target"].to_numpy() == 1
        kind = int(not malignant.any())
        labels[kind].append(malignant)
        n[kind] += patient in test
    return Release(labels, (n[0], n[1]))


def as_a_cohort(release: Release) -> Release:
    """Return the release with all its patients of one kind, whatever their images show."""
    affected, others = release.labels
    return Release(([*affected, *others], []), (sum(release.n), 0))


def draw_split(release: Release, apart: float, rng: np.random.Generator, times: int = 1) -> Split:
    """Draw a split, `times` as large as the test split, with classes whose means are `apart` standard deviations."""
    drawn = [
        labels[i]
        for labels, n in zip(release.labels, release.n, strict=True)
        if n
        for i in rng.integers(len(labels), size=n * times)
    ]
    patient, malignant = np.repeat(np.arange(len(drawn)), [len(images) for images in drawn]), np.concatenate(drawn)
    common, own = rng.normal(size=len(drawn))[patient], rng.normal(size=len(patient))
    return Split(patient, malignant, apart * malignant + np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * own)


def measure_split(split: Split, threshold: float, weights: Floats) -> dict[str, Floats]:
    """Return the figures whose intervals are looked at, for each row of `weights` `(B, N)`."""
    curve = metrics.sweep(split.scores, split.malignant, weights)
    rates = metrics.decision_figures(split.scores >= threshold, split.malignant, weights)
    probabilities = expit(2 * threshold * (split.scores - threshold))  # true where both classes are equally frequent
    return {
        "roc_auc": metrics.roc_auc(curve),
        "average_precision": metrics.average_precision(curve),
        **rates,
        "brier": metrics.brier(probabilities, split.malignant, weights),
        **metrics.calibration_line(probabilities, split.malignant, weights),
    }


def find_intervals(split: Split, threshold: float, rng: np.random.Generator) -> Iterator[tuple[str, str, Floats]]:
    """Yield figure, method, and the two ends of its interval; where there is none, those of all that is possible."""
    resamples = draw_resamples(pd.Series(split.patient), split.malignant, RESAMPLES, rng)
    measure = partial(measure_split, split, threshold)
    spread = resample_images(measure, resamples)
    flagged = split.scores >= threshold
    bases = {"sensitivity": split.malignant, "specificity": ~split.malignant, "ppv": flagged, "npv": ~flagged}
    bases["accuracy"] = np.ones_like(flagged)
    measured = {name: values[0] for name, values in measure(np.ones((1, len(split.patient)))).items()}
    once = {name: value for name, value in measured.items() if np.isfinite(value)}  # not all of a split of one class
    figures = add_intervals(once, spread, resamples, CONFIDENCE, MOST, bases)
    for name in measured:
        found = figures.get(name, {})
        yield name, "ours", np.array([found.get("low", -np.inf), found.get("high", np.inf)])
        defined = spread[name][np.isfinite(spread[name])]
        yield name, "percentiles", percentile_ends(defined, CONFIDENCE) if len(defined) else np.array([-np.inf, np.inf])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auc", type=float, default=0.85, help="the true ROC AUC")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--cohort", action="store_true", help="patients as they come, with a melanoma or without")
    options = parser.parse_args()
    release, rng = read_release(), np.random.default_rng(0)
    of_each_kind = f"{release.n[0]} patients with a melanoma and {release.n[1]} without"
    if options.cohort:
        release, of_each_kind = as_a_cohort(release), f"{sum(release.n)} patients as they come"
    apart = float(np.sqrt(2) * norm.ppf(options.auc))
    many = draw_split(release, apart, rng, MANY // sum(release.n))
    truth = {
        name: values[0] for name, values in measure_split(many, apart / 2, np.ones((1, len(many.patient)))).items()
    }
    truth["roc_auc"] = options.auc
    found: dict[tuple[str, str], list[Floats]] = defaultdict(list)
    for _ in trange(options.draws, unit="split"):
        for name, method, ends in find_intervals(draw_split(release, apart, rng), apart / 2, rng):
            found[name, method].append(ends)
    sys.stdout.write(f"{of_each_kind}, {options.draws} draws\n\n")
    sys.stdout.write(
        "| figure | truth | interval | holds it | lies above it | median width |\n|---|---:|---|---:|---:|---:|\n"
    )
    for (name, method), intervals in found.items():
        low, high = np.transpose(intervals)
        holds, above = ((low <= truth[name]) & (truth[name] <= high)).mean(), (low > truth[name]).mean()
        width = np.median(high - low)
        sys.stdout.write(f"| {name} | {truth[name]:.3f} | {method} | {holds:.1%} | {above:.1%} | {width:.3f} |\n")


if __name__ == "__main__":
    run_command(main)
