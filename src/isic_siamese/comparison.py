"""Compare two runs on the same images: `python -m isic_siamese.comparison one/test.csv other/test.csv`.

The `crossvalidation.csv` of two runs compare likewise.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from isic_siamese import metrics
from isic_siamese.areas import stratified_auc
from isic_siamese.arrays import Bools, Floats, as_bools, as_scores
from isic_siamese.bootstrap import Measure, draw_resamples, mean_figures
from isic_siamese.errors import DataError, run_command

IMAGE = ["image_name", "patient_id", "target"]
RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 0


@dataclass(frozen=True)
class DeLong:
    """The test of DeLong et al. (1988) for two areas under correlated ROC curves.

    Attributes:
        areas: the ROC AUC of both.
        error: standard error of their difference.
        p: two-sided, under equal areas.
    """

    areas: tuple[float, float]
    error: float
    p: float


def delong(malignant: Bools, one: Floats, other: Floats) -> DeLong:
    """Test whether two scores `(N,)` of the same images have the same ROC AUC.

    By the mid-ranks of Sun and Xu (2014), in O(N log N). It takes the images to be independent, which those of one
    patient are not: `paired_bootstrap` is the stricter answer.

    Raises:
        ValueError: a class has fewer than two images.
    """
    malignant, one, other = as_bools(malignant), as_scores(one), as_scores(other)
    m, n = int(malignant.sum()), int((~malignant).sum())
    if min(m, n) < 2:
        raise ValueError(f"wanted at least two images of each class, got {m} melanoma and {n} benign")
    shares = [_placements(malignant, scores) for scores in (one, other)]
    of_melanoma = np.cov([melanoma for melanoma, _ in shares])
    of_benign = np.cov([benign for _, benign in shares])
    covariance = of_melanoma / m + of_benign / n
    first, second = (float(melanoma.mean()) for melanoma, _ in shares)
    error = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    p = 2 * float(norm.sf(abs(first - second) / error)) if error > 0 else float(first == second)
    return DeLong((first, second), error, p)


def _placements(malignant: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Return the share of benign images below each melanoma `(m,)`, and of melanomas above each benign one `(n,)`."""
    ranks = rankdata(scores)
    m, n = malignant.sum(), (~malignant).sum()
    melanoma = (ranks[malignant] - rankdata(scores[malignant])) / n
    benign = 1 - (ranks[~malignant] - rankdata(scores[~malignant])) / m
    return np.asarray(melanoma, np.float64), np.asarray(benign, np.float64)


def paired_bootstrap(
    table: pd.DataFrame, n_resamples: int, confidence: float, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Return what the second run gains over the first, with the interval of a bootstrap over patients.

    Args:
        table: `repeat, image_name, patient_id, target`, and for both runs `score_1, score_2, decision_1, decision_2,
            fold_1, fold_2`. Of several repeats the gain is the mean; the ROC AUC is that among images of one fold.
        n_resamples: of the patients, the same for both runs.
        confidence: of the interval.
        rng: of the draw.
    """
    repeats = [part.sort_values("image_name") for _, part in table.groupby("repeat")]
    malignant = np.asarray(repeats[0]["target"] == 1)
    resamples = draw_resamples(repeats[0]["patient_id"], malignant, n_resamples, rng)
    gains = [_measure_gain(part, malignant) for part in repeats]
    differences = dict.fromkeys(("roc_auc", "balanced_accuracy"))  # which may lie below 0
    return mean_figures(gains, resamples, confidence, differences)


def _measure_gain(part: pd.DataFrame, malignant: Bools) -> Measure:
    scored = [(part[f"score_{run}"].to_numpy(np.float64), part[f"fold_{run}"].to_numpy()) for run in (1, 2)]
    areas = [stratified_auc(scores, malignant, folds) for scores, folds in scored]
    decisions = [np.asarray(part[f"decision_{run}"] == 1) for run in (1, 2)]

    def measure(weights: Floats) -> dict[str, Floats]:
        rates = [metrics.decision_figures(flagged, malignant, weights)["balanced_accuracy"] for flagged in decisions]
        return {"roc_auc": areas[1](weights) - areas[0](weights), "balanced_accuracy": rates[1] - rates[0]}

    return measure


def join_runs(one: Path, other: Path) -> pd.DataFrame:
    """Read the answers of two runs and join them by image, and by repeat of a cross-validation.

    Raises:
        DataError: a file is absent, holds no answers, or they are of different images.
    """
    tables = [_read_answers(path) for path in (one, other)]
    if len({table["fold"].max() > 0 for table in tables}) > 1:
        raise DataError(f"{one}, {other}: a test.csv and a crossvalidation.csv; compare two of one kind")
    names = [set(zip(table["repeat"], table["image_name"], strict=True)) for table in tables]
    if names[0] != names[1]:
        alone = len(names[0] ^ names[1])
        raise DataError(f"{one}, {other}: {alone} images are in one only; compare runs of the same seed and split")
    image = ["repeat", "image_name"]
    joined = tables[0].merge(tables[1], on=image, suffixes=("_1", "_2"), validate="one_to_one")
    for name in ("target", "patient_id"):
        if (joined[f"{name}_1"] != joined[f"{name}_2"]).any():
            raise DataError(f"{one}, {other}: the same image with another {name}; compare runs on the same release")
    return joined.rename(columns={"target_1": "target", "patient_id_1": "patient_id"})


def _read_answers(path: Path) -> pd.DataFrame:
    kind = "neither the test.csv of an evaluation nor a crossvalidation.csv"
    advice = "give data/evaluation/test.csv of each run, or data/crossvalidation.csv"
    try:
        table: pd.DataFrame = pd.read_csv(path, dtype={"patient_id": str, "image_name": str}, keep_default_na=False)
        if "fold" in table:
            table = table[[*IMAGE, "score", "decision", "repeat", "fold"]]
        else:
            table = table[[*IMAGE, "score", "decision"]].assign(repeat=1, fold=0)  # one network; folds count from 1
        whole = dict.fromkeys(("target", "decision", "repeat", "fold"), np.int64)
        table = table.astype({"score": np.float64, **whole})
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {advice}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: {kind}: {str(error).strip()}; {advice}") from None
    if not np.isfinite(table["score"]).all() or table.duplicated(["repeat", "image_name"]).any():
        raise DataError(f"{path}: {kind}: a score is not finite, or an image is answered twice; {advice}")
    n_of_class = [int((table.loc[table["repeat"] == 1, "target"] == label).sum()) for label in (0, 1)]
    if min(n_of_class) < 2:
        raise DataError(f"{path}: wanted at least two images of each class; compare on a larger test split")
    return table


def compare(one: Path, other: Path) -> dict[str, object]:
    """Return the gain of the second run over the first and, where one network answered in each, DeLong's p."""
    table = join_runs(one, other)
    gain = paired_bootstrap(table, RESAMPLES, CONFIDENCE, np.random.default_rng(SEED))
    if table[["repeat", "fold_1", "fold_2"]].nunique().max() > 1:
        return {"gain": gain}
    test = delong(np.asarray(table["target"] == 1), table["score_1"].to_numpy(), table["score_2"].to_numpy())
    return {"gain": gain, "delong": {"roc_auc": test.areas, "standard_error": test.error, "p": test.p}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser("isic_siamese.comparison", description="Compare two runs on the same images.")
    parser.add_argument("one", type=Path, help="data/evaluation/test.csv of the first run, or data/crossvalidation.csv")
    parser.add_argument("other", type=Path, help="of the second")
    parsed = parser.parse_args(arguments)
    run_command(lambda: sys.stdout.writelines([json.dumps(compare(parsed.one, parsed.other), indent=2), "\n"]))


if __name__ == "__main__":
    main()
