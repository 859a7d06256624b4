"""From votes to an answer: calibrate on validation, and decide."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import FiniteFloat
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from isic_siamese.arrays import Bools, Floats
from isic_siamese.errors import ParamsError, explaining
from isic_siamese.files import read_json, write_json
from isic_siamese.params import Count
from isic_siamese.votes import SILENT

log = logging.getLogger(__name__)

CLASSIFIER_JSON = "classifier.json"
FAMILIAR = 0.99  # share of the validation images that are not called unfamiliar


def platt_calibration(scores: Floats, malignant: Bools) -> tuple[float, float]:
    """Fit slope and intercept of `P(melanoma) = 1 / (1 + exp(-(slope * score + intercept)))`.

    Platt (1999), "Probabilistic outputs for support vector machines": the targets are (n + 1) / (n + 2) and 1 / (n + 2)
    instead of 1 and 0, which keeps the slope finite where the scores separate the classes.

    Raises:
        ValueError: one of the classes is absent.
    """
    n_melanoma = int(malignant.sum())
    n_benign = len(malignant) - n_melanoma
    if not n_melanoma or not n_benign:
        raise ValueError(f"wanted scores of both classes, got {n_melanoma} melanoma and {n_benign} benign")
    targets = np.where(malignant, (n_melanoma + 1) / (n_melanoma + 2), 1 / (n_benign + 2))
    # A soft target t is one image counted t times as melanoma and 1 - t times as benign.
    # Standardised: scores of 1e-8 would not move the solver, and those far from 0 make its matrices ill-conditioned.
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(
        np.tile((scores - centre) / scale, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = float(model.coef_[0, 0] / scale)
    return slope, float(model.intercept_[0] - slope * centre)


@dataclass(frozen=True)
class Classifier:
    """What was fitted on validation: how votes become a probability, and a probability a decision.

    Attributes:
        slope: of the calibration, per unit of the votes.
        intercept: of the calibration.
        threshold: a probability of at least this is called melanoma.
        familiar: Euclidean distance of an image to the nearest reference, above which it is like no known lesion.
        neighbours: reference lesions shown with each answer.
        orientations: how many orientations of an image its embedding is the mean of.
    """

    slope: FiniteFloat
    intercept: FiniteFloat
    threshold: FiniteFloat
    familiar: FiniteFloat
    neighbours: Count
    orientations: Literal[1, 8]

    def log_odds(self, votes: Floats) -> Floats:
        """Return the calibrated log odds of melanoma for the votes on each image: high where melanoma is likely.

        Answers are ranked by these, not by the votes: where the slope is negative the two disagree.
        """
        return np.asarray(self.slope * votes + self.intercept, np.float64)

    def probabilities(self, votes: Floats) -> Floats:
        """Return the calibrated probability of melanoma for the votes on each image."""
        return np.asarray(expit(self.log_odds(votes)), np.float64)

    def uncalibrated(self, votes: Floats) -> Floats:
        """Return what the votes alone say, both classes being equally likely."""
        return np.asarray(expit(votes), np.float64)

    def decide(self, probabilities: Floats) -> Bools:
        """Return True where the answer is melanoma."""
        return probabilities >= self.threshold

    def is_unfamiliar(self, nearest: Floats) -> Bools:
        """Return True where the nearest reference, at the distance `nearest`, is too far to rely on an answer."""
        return nearest > self.familiar


def fit_classifier(
    scores: Floats, malignant: Bools, nearest: Floats, neighbours: int, orientations: Literal[1, 8]
) -> Classifier:
    """Fit the calibration to the scores `(N,)` and labels `(N,)` of the validation split, and set the thresholds.

    The threshold is the share of melanomas there: what is likelier to be one than an image drawn at random is called
    one. Where probabilities are true, no threshold has a higher balanced accuracy: Menon, Narasimhan, Agarwal and
    Chawla, "On the statistical consistency of algorithms for binary classification under class imbalance" (ICML 2013).
    An image is unfamiliar if it is further from its nearest reference than all but 1 % of these images, whose distances
    are `nearest` `(N,)`.

    Raises:
        ValueError: one of the classes is absent.
        ParamsError: the scores hardly differ.
    """
    if not scores.std() > SILENT:
        raise ParamsError(
            f"evaluate: the votes tell no validation images apart (scores differ by {scores.std():.1e}); bring "
            "evaluate.temperature nearer to 0.1, the default, or evaluate.vote_penalty to 0.3"
        )
    slope, intercept = platt_calibration(scores, malignant)
    if slope < 0:
        log.warning("the validation images are scored the wrong way round (slope %.3f): answers are turned over", slope)
    familiar = float(np.quantile(nearest, FAMILIAR))
    return Classifier(slope, intercept, float(malignant.mean()), familiar, neighbours, orientations)


def write_classifier(folder: Path, classifier: Classifier) -> None:
    """Write `classifier.json`, its numbers in full: six digits would move images that lie at the threshold."""
    write_json(folder / CLASSIFIER_JSON, asdict(classifier), rounded=False)


def read_classifier(folder: Path) -> Classifier:
    """Read what `write_classifier` wrote.

    Raises:
        DataError: the file is absent or is something else.
    """
    path = folder / CLASSIFIER_JSON
    with explaining(path, "not a classifier of this project", "evaluate"):
        return read_json(path, Classifier)
