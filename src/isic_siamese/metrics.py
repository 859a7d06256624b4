"""Figures of many weighted resamples at once: what scikit-learn does for one sample, in a row for each resample.

scikit-learn gives each point estimate (`measures.py`), and is the oracle of these functions in their tests. Labels may
be bools, or 0 and 1; scores that are not finite are a ValueError.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from isic_siamese.arrays import Bools, Floats, Ints, as_bools, as_labelled

SMALL = 1e-9  # weights are whole numbers, so counts that differ by less are equal
N_BINS = 10  # of the calibration error
ISIC_2020 = 584 / 33_126  # share of melanomas, at which `ppv_isic2020` is what a lesion that is flagged has
NEWTON_STEPS = 60  # of a logistic regression of one variable, which takes 5 to 10 from near its solution


@dataclass(frozen=True)
class Curve:
    """What is flagged as the threshold falls past each of the C distinct scores, from none to all.

    Attributes:
        hits: weight of the positives at or above the threshold, float64 `(B, C + 1)`.
        alarms: weight of the negatives likewise.
    """

    hits: Floats
    alarms: Floats

    @property
    def sensitivity(self) -> Floats:
        """Share of the positives that is flagged, `(B, C + 1)`."""
        return _share(self.hits)

    @property
    def false_alarm_rate(self) -> Floats:
        """Share of the negatives that is flagged, `(B, C + 1)`: 1 - specificity."""
        return _share(self.alarms)


def _share(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # a resample without the class has no rate: NaN
        return counts / counts[:, -1:]


def sweep(scores: Floats, positive: Bools, weights: Floats) -> Curve:
    """Sweep the threshold over `scores` `(N,)` for each row of `weights` `(B, N)`; equal scores fall together."""
    scores, positive = as_labelled(scores, positive)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    ordered = weights[:, order]
    return Curve(*(_running_sum(ordered * of_class, starts) for of_class in (positive[order], ~positive[order])))


def _running_sum(weights: Floats, starts: Ints) -> Floats:
    sums = np.zeros((len(weights), len(starts) + 1))
    np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, out=sums[:, 1:])
    return sums


def roc_auc(curve: Curve) -> Floats:
    """Area under the ROC curve, `(B,)`: equal scores count half."""
    return np.asarray(np.trapezoid(curve.sensitivity, curve.false_alarm_rate, axis=1), np.float64)


def average_precision(curve: Curve) -> Floats:
    """Mean over the positives of the precision at each one's score, `(B,)`."""
    gains = np.diff(curve.hits, axis=1)
    flagged = curve.hits[:, 1:] + curve.alarms[:, 1:]
    precision = np.divide(curve.hits[:, 1:], flagged, out=np.zeros_like(gains), where=flagged > 0)
    with np.errstate(invalid="ignore"):  # without positives: NaN
        return np.asarray((gains * precision).sum(axis=1) / curve.hits[:, -1], np.float64)


def partial_auc(curve: Curve, sensitivity: float) -> Floats:
    """Area between the ROC curve and the line at `sensitivity`, `(B,)` in [0, 1 - sensitivity]: ISIC 2024's at 0.8."""
    above = np.clip(curve.sensitivity - sensitivity, 0, None)
    steps = np.diff(curve.false_alarm_rate, axis=1)
    rise = np.diff(curve.sensitivity, axis=1)
    # Where a step crosses the line only the part above it counts: a triangle whose base is that share of the step.
    crossing = (above[:, :-1] == 0) & (above[:, 1:] > 0)
    share = np.divide(above[:, 1:], rise, out=np.ones_like(rise), where=crossing)
    return np.asarray((steps * share * (above[:, :-1] + above[:, 1:]) / 2).sum(axis=1), np.float64)


def specificity_at(curve: Curve, sensitivity: float) -> Floats:
    """Highest specificity of a threshold that flags at least this share of the positives, `(B,)`."""
    enough = curve.hits >= sensitivity * curve.hits[:, -1:] - SMALL
    return np.asarray(1 - np.where(enough, curve.false_alarm_rate, 1).min(axis=1), np.float64)


def sensitivity_at(curve: Curve, specificity: float) -> Floats:
    """Highest sensitivity of a threshold that spares at least this share of the negatives, `(B,)`."""
    spared = curve.alarms[:, -1:] - curve.alarms
    enough = spared >= specificity * curve.alarms[:, -1:] - SMALL
    return np.asarray(np.where(enough, curve.sensitivity, 0).max(axis=1), np.float64)


def sensitivity_on(curve: Curve, grid: Floats) -> Floats:
    """Sensitivity at the false alarm rates of `grid` `(G,)`, between thresholds linearly, `(B, G)`."""
    rows = zip(curve.false_alarm_rate, curve.sensitivity, strict=True)
    return np.stack([np.interp(grid, rate, sensitivity) for rate, sensitivity in rows])


def decision_figures(decision: Bools, positive: Bools, weights: Floats) -> dict[str, Floats]:
    """Figures of the decisions `(N,)` for each row of `weights` `(B, N)`; NaN where one does not exist."""
    decision, positive = as_bools(decision), as_bools(positive)
    outcomes = np.stack(
        [decision & positive, decision & ~positive, ~decision & ~positive, ~decision & positive], axis=1
    )
    tp, fp, tn, fn = (weights @ outcomes.astype(np.float64)).T
    with np.errstate(invalid="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "accuracy": (tp + tn) / (tp + fp + tn + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "ppv_isic2020": ppv_at(ISIC_2020, sensitivity, specificity),
        }


def brier(probabilities: Floats, positive: Bools, weights: Floats) -> Floats:
    """Mean squared distance of probability `(N,)` and outcome `(N,)`, `(B,)`."""
    probabilities, outcomes = as_labelled(probabilities, positive)
    return np.asarray(weights @ (probabilities - outcomes) ** 2 / weights.sum(axis=1), np.float64)


def ppv_at(prevalence: float, sensitivity: Floats, specificity: Floats) -> Floats:
    """Positive predictive value where that share of all images is positive, by Bayes' theorem; NaN if none is flagged.

    Right as long as the images of each class are the same ones there.
    """
    hits, alarms = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.divide(hits, hits + alarms))


def calibration_line(probabilities: Floats, positive: Bools, weights: Floats) -> dict[str, Floats]:
    """Logistic regression of the outcome `(N,)` on the log odds of `probabilities` `(N,)`: `calibration_...`, `(B,)`.

    A `slope` of 1 is right, below it the probabilities are too extreme. The `intercept` is that of a slope of 1: above
    0 they are too low on the whole. Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC
    Med. 17 (2019), doi 10.1186/s12916-019-1466-7. NaN where no finite line fits best: the classes are apart, or one is
    absent, or all probabilities are equal. Those of 0 and 1 are taken for 1e-12 and 1 - 1e-12.
    """
    probabilities, outcomes = as_labelled(probabilities, positive)
    odds = logit(probabilities.clip(1e-12, 1 - 1e-12))
    one, spread = np.ones_like(odds), odds.std() if np.ptp(odds) else np.nan
    columns = np.stack([one, np.nan_to_num((odds - odds.mean()) / spread)])
    slope = _logistic_fit(columns, 0 * odds, outcomes, weights)[:, 1] / spread
    intercept = _logistic_fit(one[None], odds, outcomes, weights)[:, 0]
    return {"calibration_slope": slope, "calibration_intercept": intercept}


def _logistic_fit(columns: Floats, offset: Floats, outcomes: Bools, weights: Floats) -> Floats:
    """Return the coefficients `(B, k)` of `columns` `(k, N)` beside the `offset` `(N,)`, by Newton's method; or NaN."""
    found = np.zeros((len(weights), len(columns)))
    for _ in range(NEWTON_STEPS):
        share = expit(found @ columns + offset)
        gradient = (weights * (outcomes - share)) @ columns.T
        curvature = np.einsum("in,bn,jn->bij", columns, weights * share * (1 - share), columns, optimize=True)
        # Bounded: from far off a step may lead to where all shares are 0 or 1, and nothing leads back.
        step = (np.linalg.pinv(curvature) @ gradient[..., None])[..., 0]
        step *= np.minimum(1, 2 / np.abs(step).max(axis=1, keepdims=True).clip(SMALL))
        found += step
        if np.abs(step).max() <= SMALL:
            break
    total = weights.sum(axis=1, keepdims=True)
    best = (np.abs(step) <= SMALL) & (np.abs(gradient) <= SMALL * total)
    # Flat: classes that are apart but for a tie, or a single probability. Along it the pseudo-inverse takes no step.
    curved = np.linalg.eigvalsh(curvature)[:, :1] > SMALL * total
    mixed = (weights @ outcomes > 0) & (weights @ ~outcomes > 0)
    found[~((best & curved).all(axis=1) & mixed)] = np.nan
    return found


def calibration_bins(probabilities: Floats) -> Ints:
    """Assign each probability `(N,)` to one of `N_BINS` bins of as many images each; equal ones stay together.

    Bins of equal width would put nearly all images of a release with 1.76 % melanoma into the first.
    """
    edges = np.quantile(probabilities, np.arange(1, N_BINS) / N_BINS)
    return np.searchsorted(edges, probabilities, side="left").astype(np.int64)


def chance_calibration_error(probabilities: Floats, rng: np.random.Generator, n_draws: int = 1000) -> float:
    """Calibration error that chance alone gives N images: the mean over outcomes drawn from `probabilities` `(N,)`.

    What a model whose probabilities are true would have, to be read beside its `calibration_error`.
    """
    return float(_calibration_errors(probabilities, rng.random((n_draws, len(probabilities))) < probabilities).mean())


def calibration_error(probabilities: Floats, positive: Bools) -> float:
    """Expected calibration error: |mean probability - share of positives| of a bin, averaged over images."""
    probabilities, outcomes = as_labelled(probabilities, positive)
    return float(_calibration_errors(probabilities, outcomes[None])[0])


def _calibration_errors(probabilities: Floats, outcomes: Bools) -> Floats:
    """Return the calibration error of each row of `outcomes` `(B, N)`."""
    bins = np.eye(N_BINS)[calibration_bins(probabilities)]
    return np.asarray(np.abs((probabilities - outcomes) @ bins).sum(axis=1) / len(probabilities), np.float64)
