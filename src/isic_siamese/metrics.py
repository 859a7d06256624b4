"""Figures of many weighted resamples at once: what scikit-learn does for one sample, in a row for each resample.

scikit-learn gives each point estimate (`measures.py`), and is the oracle of these functions in their tests. Labels may
be bools, or 0 and 1; scores that are not finite are a ValueError.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from isic_siamese.arrays import Bools, Floats, Ints, as_bools, as_scores

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
    scores, positive = _labelled(scores, positive)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    ordered = weights[:, order]
    return Curve(*(_running_sum(ordered * of_class, starts) for of_class in (positive[order], ~positive[order])))


def _labelled(scores: Floats, positive: Bools) -> tuple[Floats, Bools]:
    scores, positive = as_scores(scores), as_bools(positive)
    if scores.shape != positive.shape:  # an index of too many labels would leave out the last ones, silently
        raise ValueError(f"wanted a label for each score, got {len(positive)} for {len(scores)}")
    return scores, positive


def _running_sum(weights: Floats, starts: Ints) -> Floats:
    sums = np.zeros((len(weights), len(starts) + 1))
    np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, out=sums[:, 1:])
    return sums


def roc_auc(curve: Curve) -> Floats:
    """Area under the ROC curve, `(B,)`: equal scores count half."""
    return np.asarray(np.trapezoid(curve.sensitivity, curve.false_alarm_rate, axis=1), np.float64)


def rank_auc(scores: Floats, positive: Bools) -> Callable[[Floats], Floats]:
    """Return a function from weights `(B, N)` to `roc_auc(sweep(scores, positive, weights))`, without the curve.

    The ranks are found once and not in each chunk of weights: 1.6 s instead of 18 for 2,000 resamples of 151,552 pairs.
    """
    scores, positive = _labelled(scores, positive)
    order = np.argsort(scores, kind="stable")
    ups, downs = order[positive[order]], order[~positive[order]]
    # Positives below each negative, and those below or level with it.
    below, upto = (np.searchsorted(scores[ups], scores[downs], side=side) for side in ("left", "right"))

    def measure(weights: Floats) -> Floats:
        sums = np.zeros((len(weights), len(ups) + 1))
        np.cumsum(np.take(weights, ups, axis=1), axis=1, out=sums[:, 1:])
        negatives = np.take(weights, downs, axis=1)
        wrong = np.einsum("bn,bn->b", negatives, np.take(sums, below, axis=1))
        if (below != upto).any():
            wrong = (wrong + np.einsum("bn,bn->b", negatives, np.take(sums, upto, axis=1))) / 2
        with np.errstate(invalid="ignore"):  # a resample without a class has no area: NaN
            return np.asarray(1 - wrong / (sums[:, -1] * negatives.sum(axis=1)), np.float64)

    return measure


def within_strata(
    measure_part: Callable[[Ints], Callable[[Floats], Floats]], stratum: Ints, positive: Bools
) -> Callable[[Floats], Floats]:
    """Return a function from weights `(B, N)` to the mean of what is measured within each stratum, `(B, ...)`.

    For images that several networks scored, because the scores of two share no scale. A stratum weighs as its pairs of
    a positive and a negative: so of areas under curves, the mean is how often a positive outscores a negative of its
    own stratum. NaN in a resample without such a pair.

    Args:
        measure_part: from the positions `(n,)` of the images of a stratum to a function from their weights `(B, n)` to
            values `(B, ...)`.
        stratum: of each image, such as the fold that it was held out in, `(N,)`.
        positive: label of each image, `(N,)`.
    """
    stratum, positive = np.asarray(stratum), as_bools(positive)
    parts = [np.flatnonzero(stratum == one) for one in np.unique(stratum)]
    measures = [measure_part(part) for part in parts]

    def measure(weights: Floats) -> Floats:
        total, n_pairs = np.zeros(()), np.zeros(len(weights))
        for part, measured in zip(parts, measures, strict=True):
            drawn = weights[:, part]
            pairs = (drawn @ positive[part]) * (drawn @ ~positive[part])
            with np.errstate(invalid="ignore"):  # a class may be absent
                total = total + pairs * np.nan_to_num(measured(drawn)).T
            n_pairs += pairs
        with np.errstate(invalid="ignore"):
            return np.asarray((total / n_pairs).T, np.float64)

    return measure


def stratified_auc(scores: Floats, positive: Bools, stratum: Ints) -> Callable[[Floats], Floats]:
    """Return a function from weights `(B, N)` to the ROC AUC among images of one stratum, `(B,)`; see `within_strata`.

    >>> scores, positive, stratum = np.array([0.8, 0.6, 0.4, 0.2]), np.array([1, 0, 1, 0]), np.array([1, 1, 2, 2])
    >>> stratified_auc(scores, positive, stratum)(np.ones((1, 4))), rank_auc(scores, positive)(np.ones((1, 4)))
    (array([1.]), array([0.75]))
    """
    scores, positive = _labelled(scores, positive)
    return within_strata(lambda part: rank_auc(scores[part], positive[part]), stratum, positive)


def matched_auc(scores: Floats, positive: Bools, trait: Floats, most: float) -> Callable[[Floats], Floats]:
    """Return a function from weights `(B, N)` to the ROC AUC among images that are alike in a trait, `(B,)`.

    That is how often a positive outscores a negative whose `trait` `(N,)` differs from its own by at most `most`; a tie
    counts half. With a trait that tells the classes apart by itself, it says what the scores know beyond that.
    """
    (scores, positive), trait = _labelled(scores, positive), as_scores(trait)
    # In float32, as a release has 19 million pairs: halves, and whole weights of them, are exact in it.
    alike = (np.abs(trait[positive][:, None] - trait[~positive][None]) <= most).astype(np.float32)
    above = np.sign(scores[positive][:, None] - scores[~positive][None]).astype(np.float32)
    wins = alike * (above + 1) / 2

    def measure(weights: Floats) -> Floats:
        of_positive, of_negative = weights[:, positive].astype(np.float32), weights[:, ~positive]
        won, met = (np.einsum("bn,bn->b", of_positive @ matrix, of_negative) for matrix in (wins, alike))
        with np.errstate(invalid="ignore"):  # a resample without such a pair has no area: NaN
            return np.asarray(won / met, np.float64)

    return measure


def average_precision(curve: Curve) -> Floats:
    """Mean over the positives of the precision at each one's score, `(B,)`."""
    gains = np.diff(curve.hits, axis=1)
    flagged = curve.hits[:, 1:] + curve.alarms[:, 1:]
    precision = np.divide(curve.hits[:, 1:], flagged, out=np.zeros_like(gains), where=flagged > 0)
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
    probabilities, outcomes = _labelled(probabilities, positive)
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
    probabilities, outcomes = _labelled(probabilities, positive)
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
    mixed = (weights @ outcomes > 0) & (weights @ ~outcomes > 0)
    found[~(best.all(axis=1) & mixed)] = np.nan
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
    once = np.ones((1, len(probabilities)))
    drawn = rng.random((n_draws, len(probabilities))) < probabilities
    return float(np.mean([calibration_error(probabilities, outcomes, once)[0] for outcomes in drawn]))


def calibration_error(probabilities: Floats, positive: Bools, weights: Floats) -> Floats:
    """Expected calibration error, `(B,)`: |mean probability - share of positives| of a bin, averaged over images."""
    probabilities, outcomes = _labelled(probabilities, positive)
    bins = calibration_bins(probabilities)
    gaps = np.zeros((len(probabilities), N_BINS))
    gaps[np.arange(len(bins)), bins] = probabilities - outcomes
    return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1), np.float64)
