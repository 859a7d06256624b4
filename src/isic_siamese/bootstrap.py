"""Resample whole patients: images of one patient are alike, so images are not the independent draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from isic_siamese.arrays import Bools, Floats

Measure = Callable[[Floats], Mapping[str, Floats]]  # from the weights (b, N) of b resamples to named values (b, ...)

ROUNDING = 1e-9  # an area under a curve is a sum of many small ones
CHUNK = 1_000_000  # weights held at a time: 8 MB of float64; with four times as many the processor's cache is too small


@dataclass(frozen=True)
class Resamples:
    """Many resamples of the patients behind N images.

    Attributes:
        multiplicities: how often each patient was drawn, float64 `(B, P)`.
        patient: the patient of each image, int64 `(N,)`, an index into P.
    """

    multiplicities: Floats
    patient: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.multiplicities)

    def count_patients(self, of: Bools) -> int:
        """Return how many patients the images `of` `(N,)` belong to."""
        return len(np.unique(self.patient[of]))


def draw_resamples(patient_ids: pd.Series, malignant: Bools, n_resamples: int, rng: np.random.Generator) -> Resamples:
    """Draw patients with replacement, those with a melanoma and those without each as many as there are.

    So every resample has melanomas, and of both kinds of patient as many as the split.

    Args:
        patient_ids: of each image, `(N,)`.
        malignant: label of each image, `(N,)`.
        n_resamples: B.
        rng: of the draw.
    """
    patient, ids = pd.factorize(patient_ids, sort=True)
    affected = np.bincount(patient, weights=malignant, minlength=len(ids)) > 0
    multiplicities = np.zeros((n_resamples, len(ids)))
    for stratum in (affected, ~affected):
        n = int(stratum.sum())
        if n:
            multiplicities[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return Resamples(multiplicities, patient.astype(np.int64))


def resample_images(measure: Measure, resamples: Resamples) -> dict[str, Floats]:
    """Apply `measure` to the weights `(b, N)` of the images in each resample, a chunk of resamples at a time.

    Returns:
        The named values of `measure`, `(B, ...)`.
    """
    patient = resamples.patient
    return _in_chunks(lambda drawn: measure(np.take(drawn, patient, axis=1)), resamples, len(patient))


def resample_pairs(
    measure: Measure,
    resamples: Resamples,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
) -> dict[str, Floats]:
    """Apply `measure` to the weights `(b, pairs)` of the pairs in each resample.

    A pair occurs as often as there are copies of the one patient beside copies of the other: the product.

    Args:
        measure: see `resample_images`.
        resamples: of the images.
        left: the image on the left of each pair, an index into the N images.
        right: likewise.
    """
    one, other = resamples.patient[left], resamples.patient[right]
    return _in_chunks(
        lambda drawn: measure(np.take(drawn, one, axis=1) * np.take(drawn, other, axis=1)), resamples, len(left)
    )


def _in_chunks(measure: Measure, resamples: Resamples, width: int) -> dict[str, Floats]:
    step = max(1, CHUNK // max(1, width))
    parts = [measure(resamples.multiplicities[start : start + step]) for start in range(0, len(resamples), step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_figures(repeats: Sequence[Measure], resamples: Resamples, confidence: float) -> dict[str, dict[str, float]]:
    """Return what all of `repeats` measure, as the figures of their mean.

    A resample draws patients once for all repeats, so that the interval is that of the mean, and does not pretend that
    repeats are new patients. A figure that does not exist, such as the AUC among images of equal brightness where there
    are none, is left out.
    """

    def measure(weights: Floats) -> dict[str, Floats]:
        each = [measure_repeat(weights) for measure_repeat in repeats]
        return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}

    once = measure(np.ones((1, len(resamples.patient))))
    spread = resample_images(measure, resamples)
    found = {name: values[0] for name, values in once.items() if np.isfinite(values[0])}
    return {name: figure(value, spread[name], confidence) for name, value in found.items()}


def figure(value: float, resampled: Floats, confidence: float, n_patients: int | None = None) -> dict[str, float]:
    """Return `value` as a figure of the metrics: with the `low` and `high` end of its interval, where it has one.

    Where the resamples agree, the bootstrap knows nothing of the spread: an interval of no width would claim certainty.
    A rate, such as a sensitivity of 7 out of 7, then has the interval of Clopper and Pearson (1934), which counts
    patients, because images of one patient are no independent draws. Any other figure has none.

    Args:
        value: the point estimate.
        resampled: the figure in each resample, `(B,)`.
        confidence: of the interval.
        n_patients: the patients behind a rate, a share of images; None for any other figure.

    >>> round(figure(1.0, np.ones(100), 0.95, n_patients=7)["low"], 3)
    0.59
    """
    ends = interval(resampled, confidence)
    if ends is not None and ends[1] - ends[0] < ROUNDING:
        ends = _exact_interval(value, n_patients, confidence) if n_patients else None
    return {"value": float(value)} if ends is None else {"value": float(value), "low": ends[0], "high": ends[1]}


def figure_text(figure: Mapping[str, float], sign: str = "") -> str:
    """Return a figure of the metrics as text; with the `sign` "+", a difference.

    >>> figure_text({"value": 0.88, "low": 0.8561, "high": 0.9})
    '0.880 (0.856 to 0.900)'
    """
    ends = f" ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})" if "low" in figure else ""
    return f"{figure['value']:{sign}.3f}{ends}"


def _exact_interval(rate: float, n: int, confidence: float) -> tuple[float, float]:
    low, high = binomtest(round(rate * n), n).proportion_ci(confidence, method="exact")
    return float(low), float(high)


def interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    """Return the percentile interval of resampled `values` `(B,)`, or None where fewer than half are defined.

    A resample in which a figure does not exist (a predictive value where nothing was flagged) is NaN and left out.

    >>> interval(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    defined = values[np.isfinite(values)]
    if 2 * len(defined) < len(values):
        return None
    low, high = percentile_ends(defined, confidence)
    return float(low), float(high)


def percentile_ends(values: Floats, confidence: float) -> Floats:
    """Return the low and the high end of the percentile interval of resampled `values` `(B, ...)`, `(2, ...)`."""
    return np.asarray(np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0), np.float64)
