"""The figures of an evaluation by name: each as a point estimate, and in every resample for its interval."""

from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk

from isic_siamese import metrics
from isic_siamese.arrays import Bools, Embeddings, Floats, Ints
from isic_siamese.classifier import Classifier
from isic_siamese.references import References

RECALL_AT = (1, 5)
LEAST_SENSITIVITY = 0.8  # of ISIC 2024's partial AUC
# The most that a figure can be, where that is not 1; None: it may lie below 0 as well.
MOST = {"partial_auc": 1 - LEAST_SENSITIVITY, "calibration_slope": None, "calibration_intercept": None}
GRID = np.linspace(0, 1, 101)  # false alarm rates at which the band of the ROC curve is drawn

# Mean sensitivity and specificity of dermatologists, by author and year. The first three are reader studies with
# dermoscopy, the last a meta-analysis of 92 studies with and without it.
DERMATOLOGISTS = {
    "haenssle_2018": (0.866, 0.713),  # 58 readers, Ann. Oncol. 29, doi 10.1093/annonc/mdy166
    "brinker_2019": (0.741, 0.600),  # 157 readers, Eur. J. Cancer 113, doi 10.1016/j.ejca.2019.04.001
    # 96 readers, who decided what to do with skin cancers of any kind: Ann. Oncol. 31, doi 10.1016/j.annonc.2019.10.013
    "haenssle_2020": (0.890, 0.807),
    "phillips_2019": (0.875, 0.814),  # Dermatol. Pract. Concept. 10, doi 10.5826/dpc.1001a11
}


def study_name(study: str) -> str:
    """Return a study of `DERMATOLOGISTS` as text.

    >>> study_name("haenssle_2018")
    'Haenssle 2018'
    """
    return study.replace("_", " ").title()


@dataclass(frozen=True)
class Answers:
    """What the classifier said of N images, beside what they are.

    Attributes:
        malignant: the label, `(N,)`.
        scores: calibrated log odds of melanoma, `(N,)`.
        probabilities: what these are as probabilities, `(N,)`.
        uncalibrated: what the votes alone say, `(N,)`.
        decisions: True is melanoma, `(N,)`.
        nearest: the nearest references, nearest first, int64 `(N, k)`.
        distances: to them, `(N, k)`.
        nearest_malignant: their labels, `(N, k)`.
        unfamiliar: True where even the nearest reference is far, `(N,)`.
    """

    malignant: Bools
    scores: Floats
    probabilities: Floats
    uncalibrated: Floats
    decisions: Bools
    nearest: Ints
    distances: Floats
    nearest_malignant: Bools
    unfamiliar: Bools


def answer(classifier: Classifier, references: References, embeddings: Embeddings, malignant: Bools) -> Answers:
    """Answer for `embeddings` `(N, D)`, whose labels `malignant` `(N,)` only stand beside the answers."""
    votes = references.scores(embeddings)
    k = max(classifier.neighbours, *RECALL_AT)
    nearest, distances = references.nearest(embeddings, k)
    probabilities = classifier.probabilities(votes)
    return Answers(
        malignant,
        classifier.log_odds(votes),
        probabilities,
        classifier.uncalibrated(votes),
        classifier.decide(probabilities),
        nearest,
        distances,
        references.malignant[nearest],
        classifier.is_unfamiliar(distances[:, 0]),
    )


def rate_bases(answers: Answers) -> dict[str, Bools]:
    """Return which images each rate is a share of, `(N,)`."""
    return {
        "accuracy": np.ones_like(answers.malignant),
        "sensitivity": answers.malignant,
        "specificity": ~answers.malignant,
        "ppv": answers.decisions,
        "npv": ~answers.decisions,
    }


def point_measures(answers: Answers) -> dict[str, float]:
    """Return every figure of `answers`, by scikit-learn where it has it; those that do not exist are left out."""
    y, scores, flagged = answers.malignant, answers.scores, answers.decisions
    once = np.ones((1, len(y)))
    curve = metrics.sweep(scores, y, once)
    figures = {
        "roc_auc": sk.roc_auc_score(y, scores),
        "average_precision": sk.average_precision_score(y, scores),
        "partial_auc": metrics.partial_auc(curve, LEAST_SENSITIVITY)[0],
        "accuracy": sk.accuracy_score(y, flagged),
        "balanced_accuracy": sk.balanced_accuracy_score(y, flagged),
        "sensitivity": sk.recall_score(y, flagged),
        "specificity": sk.recall_score(~y, ~flagged),
        "ppv": sk.precision_score(y, flagged, zero_division=np.nan),
        "npv": sk.precision_score(~y, ~flagged, zero_division=np.nan),
        "f1": sk.f1_score(y, flagged),
        "brier": sk.brier_score_loss(y, answers.probabilities),
        "brier_uncalibrated": sk.brier_score_loss(y, answers.uncalibrated),
        "brier_by_prevalence": y.mean() * (1 - y.mean()),  # of whoever says the same of each image
    }
    figures["ppv_isic2020"] = metrics.ppv_at(metrics.ISIC_2020, figures["sensitivity"], figures["specificity"])
    figures |= {name: line[0] for name, line in metrics.calibration_line(answers.probabilities, y, once).items()}
    for name, probabilities in (("", answers.probabilities), ("_uncalibrated", answers.uncalibrated)):
        figures[f"calibration_error{name}"] = metrics.calibration_error(probabilities, y)
    figures |= {name: values[0] for name, values in (_recall(answers, once) | _at_dermatologists(curve)).items()}
    return {name: float(value) for name, value in figures.items() if np.isfinite(value)}


def resampled_measures(answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Return the figures of `point_measures` for each row of `weights` `(b, N)`, and the ROC curve on `GRID`.

    But no calibration error: chance raises it, and a resample holds chance twice. Where the truth was known, intervals
    of it missed even the point estimate. Nor what the prevalence alone gives, which is no figure of the model.
    """
    y = answers.malignant
    curve = metrics.sweep(answers.scores, y, weights)
    return {
        "roc_auc": metrics.roc_auc(curve),
        "average_precision": metrics.average_precision(curve),
        "partial_auc": metrics.partial_auc(curve, LEAST_SENSITIVITY),
        **metrics.decision_figures(answers.decisions, y, weights),
        "brier": metrics.brier(answers.probabilities, y, weights),
        "brier_uncalibrated": metrics.brier(answers.uncalibrated, y, weights),
        **metrics.calibration_line(answers.probabilities, y, weights),
        **_recall(answers, weights),
        **_at_dermatologists(curve),
        "band": metrics.sensitivity_on(curve, GRID),
    }


def _at_dermatologists(curve: metrics.Curve) -> dict[str, Floats]:
    """Specificity at the sensitivity of each study, and the other way round."""
    figures = {}
    for study, (sensitivity, specificity) in DERMATOLOGISTS.items():
        figures[f"{study}.specificity"] = metrics.specificity_at(curve, sensitivity)
        figures[f"{study}.sensitivity"] = metrics.sensitivity_at(curve, specificity)
    return figures


def _recall(answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Share of the images with one of their own class among the k nearest references, as a mean of both classes."""
    alike = answers.nearest_malignant == answers.malignant[:, None]
    found = {k: alike[:, :k].any(axis=1) for k in RECALL_AT}
    by_class = [weights * of_class for of_class in (answers.malignant, ~answers.malignant)]
    with np.errstate(invalid="ignore"):  # a class may be absent: NaN
        rates = {k: [part @ found[k] / part.sum(axis=1) for part in by_class] for k in RECALL_AT}
    return {f"recall_at_{k}": np.mean(rates[k], axis=0) for k in RECALL_AT}
