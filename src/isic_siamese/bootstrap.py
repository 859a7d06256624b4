"""Resample whole patients: images of one patient are alike, so images are not the independent draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binomtest
from scipy.stats import t as student_t

from isic_siamese.arrays import Bools, Floats, Ints, as_bools

Figure = dict[str, float]  # its `value`, and where it has an interval the ends `low` and `high`
Measure = Callable[[Floats], Mapping[str, Floats]]  # from the weights (b, N) of b resamples to named values (b, ...)

RATES = ("sensitivity", "specificity")  # whose mean is the balanced accuracy
PPV = "ppv_isic2020"  # which follows from both rates
ROUNDING = 1e-9  # an area under a curve is a sum of many small ones
CHUNK = 1_000_000  # weights held at a time: 8 MB of float64; with four times as many the processor's cache is too small


@dataclass(frozen=True)
class Resamples:
    """Many resamples of the patients behind N images.

    Attributes:
        multiplicities: how often each patient was drawn, float64 `(B, P)`.
        patient: the patient of each image, int64 `(N,)`, an index into P.
        n_rarer: how many patients have an image of the class that fewer have one of.
    """

    multiplicities: Floats
    patient: Ints
    n_rarer: int

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
        malignant: label of each image, bool (or 0 and 1) `(N,)`.
        n_resamples: B.
        rng: of the draw.

    Raises:
        ValueError: labels are something else.
    """
    malignant = as_bools(malignant)
    patient, ids = pd.factorize(patient_ids, sort=True)
    affected = np.bincount(patient, weights=malignant, minlength=len(ids)) > 0
    multiplicities = np.zeros((n_resamples, len(ids)))
    for stratum in (affected, ~affected):
        n = int(stratum.sum())
        if n:
            multiplicities[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    n_rarer = min(len(np.unique(patient[of])) for of in (malignant, ~malignant) if of.any())
    return Resamples(multiplicities, patient.astype(np.int64), n_rarer)


def resample_images(measure: Measure, resamples: Resamples) -> dict[str, Floats]:
    """Apply `measure` to the weights `(b, N)` of the images in each resample, a chunk of resamples at a time.

    Returns:
        The named values of `measure`, `(B, ...)`.
    """
    patient = resamples.patient
    return _in_chunks(lambda drawn: measure(np.take(drawn, patient, axis=1)), resamples, len(patient))


def resample_pairs(measure: Measure, resamples: Resamples, left: Ints, right: Ints) -> dict[str, Floats]:
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


def mean_figures(
    repeats: Sequence[Measure],
    resamples: Resamples,
    confidence: float,
    most: Mapping[str, float | None],
    bases: Mapping[str, Bools] | None = None,
) -> dict[str, Figure]:
    """Return what all of `repeats` measure, as figures of their mean; arguments as in `add_intervals`.

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
    return add_intervals(found, spread, resamples, confidence, most, bases or {})


def add_intervals(
    values: Mapping[str, float],
    spread: Mapping[str, Floats],
    resamples: Resamples,
    confidence: float,
    most: Mapping[str, float | None],
    bases: Mapping[str, Bools],
) -> dict[str, Figure]:
    """Return `values` as figures, those that `spread` has in each resample with an interval.

    Where all resamples agree in the sensitivity or the specificity, their mean has the means of their ends: its own
    resamples hold the spread of the other one alone. With the melanomas of two patients that interval lay above 0.80 in
    a third of all draws from a truth below it.

    Args:
        values: by name, after a dot where it is one of many, such as those beside a study.
        spread: `(B,)` of each.
        resamples: what they were measured in.
        confidence: of the intervals.
        most: as in `figure`, where it is not 1.
        bases: of rates such as `sensitivity`, the images that they are shares of, `(N,)`; see `rate_figure`.
    """
    patients = {rate: resamples.count_patients(images) for rate, images in bases.items()}
    if PPV in values:
        spread = {**spread, PPV: _linear_ppv(values, spread)}
    figures: dict[str, Figure] = {}
    for name, value in values.items():
        if name not in spread:
            figures[name] = {"value": float(value)}
        elif (rate := name.rpartition(".")[2]) in patients:
            figures[name] = rate_figure(value, spread[name], confidence, patients[rate])
        else:
            figures[name] = figure(value, spread[name], confidence, resamples.n_rarer, most.get(name, 1.0))
    rated = "balanced_accuracy" in figures and patients.keys() >= set(RATES)
    if rated and min(np.ptp(spread[rate]) for rate in RATES) == 0:
        ends = {end: float(np.mean([figures[rate][end] for rate in RATES])) for end in ("low", "high")}
        figures["balanced_accuracy"] |= ends
    return figures


def _linear_ppv(values: Mapping[str, float], spread: Mapping[str, Floats]) -> Floats:
    """Return the resampled predictive value at a prevalence that is given, as if it were linear in both rates.

    Its log odds are those of the prevalence, plus log sensitivity, less log (1 - specificity). A resample without a
    false alarm has a value of 1, and a few such would make the standard error: with six patients of each kind their
    number, which chance decides, moved the upper end from 0.35 to 0.63.
    """
    value = values[PPV]
    if not 0 < value < 1:
        return spread[PPV]
    hits = spread["sensitivity"] / values["sensitivity"]
    alarms = (1 - spread["specificity"]) / (1 - values["specificity"])
    return np.asarray(value + value * (1 - value) * (hits - alarms), np.float64)


def figure(value: float, resampled: Floats, confidence: float, n_patients: int, most: float | None = 1.0) -> Figure:
    """Return `value` as a figure of the metrics: with the `low` and `high` end of its interval, where it has one.

    The resamples give the standard error, Student's t with `n_patients - 1` degrees of freedom the interval, on the
    logit scale: Hesterberg, "What teachers should know about the bootstrap", Am. Stat. 69 (2015), doi
    10.1080/00031305.2015.1089789, has the factor n / (n - 1) that a variance of resamples lacks, and Pepe, "The
    Statistical Evaluation of Medical Tests" (2003), the scale. Percentiles cover too little where patients are few:
    `python -m benchmarks.coverage`.

    There is no interval of fewer than two patients, or where fewer than half of the resamples have the figure (NaN: a
    predictive value where nothing was flagged), or where they agree: one of no width would claim certainty.

    Args:
        value: the point estimate.
        resampled: the figure in each resample, `(B,)`.
        confidence: of the interval.
        n_patients: the patients behind the figure; of two classes, those of the rarer one.
        most: the largest value that it can have, 0 being the smallest; None for a difference, which has no logit.

    >>> resampled = np.random.default_rng(0).normal(0.9, 0.05, 1000)
    >>> {name: round(number, 2) for name, number in figure(0.9, resampled, 0.95, n_patients=20).items()}
    {'value': 0.9, 'low': 0.74, 'high': 0.97}
    """
    defined = resampled[np.isfinite(resampled)]
    if n_patients < 2 or 2 * len(defined) < len(resampled) or np.ptp(defined) < ROUNDING:
        return {"value": float(value)}
    error = defined.std(ddof=1) * np.sqrt(n_patients / (n_patients - 1))
    reach = error * student_t.ppf((1 + confidence) / 2, n_patients - 1)
    if most is None:
        low, high = value - reach, value + reach
    elif 0 < value < most:
        share = value / most
        reach /= most * share * (1 - share)  # by the slope of the logit
        low, high = (most * expit(logit(share) + side * reach) for side in (-1, 1))
    else:  # a curve is read at its end; there is no logit
        low, high = percentile_ends(defined, confidence)
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


def rate_figure(rate: float, resampled: Floats, confidence: float, n_patients: int) -> Figure:
    """Return a share of images as `figure` does, and with an interval where all resamples agree, too.

    A rate such as a sensitivity of 7 out of 7 then has that of Clopper and Pearson (1934), which counts patients,
    because images of one patient are no independent draws.

    >>> round(rate_figure(1.0, np.ones(100), 0.95, n_patients=7)["low"], 3)
    0.59
    """
    found = figure(rate, resampled, confidence, n_patients)
    if "low" in found:
        return found
    low, high = clopper_pearson(round(rate * n_patients), n_patients, confidence)
    return found | {"low": low, "high": high}


def clopper_pearson(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the exact interval of the share of `hits` in `n`, independent of each other.

    >>> low, high = clopper_pearson(0, 8, 0.95)
    >>> low, round(high, 3)
    (0.0, 0.369)
    """
    interval = binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def figure_text(figure: Mapping[str, float], sign: str = "") -> str:
    """Return a figure of the metrics as text; with the `sign` "+", a difference.

    >>> figure_text({"value": 0.88, "low": 0.8561, "high": 0.9})
    '0.880 (0.856 to 0.900)'
    """
    ends = f" ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})" if "low" in figure else ""
    return f"{figure['value']:{sign}.3f}{ends}"


def percentile_ends(values: Floats, confidence: float) -> Floats:
    """Return the low and the high end of the percentile interval of resampled `values` `(B, ...)`, `(2, ...)`."""
    return np.asarray(np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0), np.float64)
