"""Pictures of an evaluation: its curves, the map of its embeddings, its worst misses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn import metrics as sk
from sklearn.decomposition import PCA

from isic_siamese import metrics
from isic_siamese.arrays import Bools, Embeddings, Floats, Ints
from isic_siamese.bootstrap import clopper_pearson, figure_text
from isic_siamese.evaluation import Evaluation
from isic_siamese.measures import Answers
from isic_siamese.pictures import BLUE, CHOSEN, GREY, VERMILLION, unit_axes, write_figure
from isic_siamese.references import References
from isic_siamese.roc import Roc, draw_roc
from isic_siamese.shards import Shards
from isic_siamese.sheets import Tile, reference_tiles, write_sheet

MISSES, NEIGHBOURS = 4, 5  # of each kind on the sheet, and beside each

BENIGN, MELANOMA = BLUE, VERMILLION


def draw_precision_recall(
    figure: Figure, title: str, answers: Answers, figures: Mapping[str, Mapping[str, float]]
) -> None:
    """Precision-recall curve beside what chance gives."""
    axes = unit_axes(figure, title, "recall (sensitivity)", "precision (PPV)")
    precision, recall, _ = sk.precision_recall_curve(answers.malignant, answers.scores)
    label = f"this model, average precision {figure_text(figures['average_precision'])}"
    axes.step(recall, precision, where="post", color=BLUE, label=label, clip_on=False)
    share = float(answers.malignant.mean())
    axes.axhline(share, color=GREY, linewidth=0.8, linestyle=":", label=f"chance: {share:.3f} are melanoma")
    if "ppv" in figures:
        chosen = (figures["sensitivity"]["value"], figures["ppv"]["value"])
        axes.plot(*chosen, color=BLUE, **CHOSEN)
    figure.legend(loc="outside lower center")  # where melanoma is rare, the curve is where a corner would be free


def draw_reliability(figure: Figure, title: str, answers: Answers, evaluation: Evaluation) -> None:
    """Share of melanomas beside the predicted probability, in bins of as many images each, before and after."""
    shown = (
        ("Before calibration", answers.uncalibrated, VERMILLION, "calibration_error_uncalibrated"),
        ("Calibrated on validation", answers.probabilities, BLUE, "calibration_error"),
    )
    figures, confidence = evaluation.figures, evaluation.confidence
    figure.suptitle(title, fontsize=11)
    ends = []
    for axes, (name, probabilities, colour, error) in zip(panels := figure.subplots(1, 2), shown, strict=True):
        table = _bin_shares(probabilities, answers.malignant, confidence)
        ends.append(min(1.0, 1.1 * float(table.to_numpy().max())))
        axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=":", label="calibrated")
        reach = np.abs(table[["low", "high"]].to_numpy().T - table["share"].to_numpy())
        style: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 6, "elinewidth": 0.8, "clip_on": False}
        axes.errorbar(
            table["probability"],
            table["share"],
            reach,
            label=f"{100 * confidence:g} % Clopper-Pearson interval, images taken as independent",
            **style,
        )
        size = f"in {len(table)} bins of {len(probabilities) // len(table):,} images or so"
        axes.set(xlabel=f"mean predicted probability\n{size}", ylabel="share of melanomas", aspect="equal")
        chance = figures["calibration_error_by_chance"]["value"]
        by_chance = f"; by chance {chance:.3f}" if colour == BLUE else ""
        axes.set_title(f"{name}\nerror {figures[error]['value']:.3f}{by_chance}")
    for axes in panels:  # alike, and where melanoma is rare all bins lie in a corner
        axes.set(xlim=(0, max(ends)), ylim=(0, max(ends)))
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _bin_shares(probabilities: Floats, malignant: Bools, confidence: float) -> pd.DataFrame:
    """Return of each bin the mean `probability` and the `share` of melanomas, with its interval, `low` to `high`.

    By Clopper and Pearson, as if no two images were of one patient: a bin has too few for a bootstrap.
    """
    table = pd.DataFrame({"probability": probabilities, "share": malignant.astype(np.float64)})
    bins = table.groupby(metrics.calibration_bins(probabilities))
    sizes = zip(bins["share"].sum(), bins.size(), strict=True)
    low, high = zip(*(clopper_pearson(int(hits), int(n), confidence) for hits, n in sizes), strict=True)
    return bins.mean().assign(low=low, high=high)


def draw_confusion(figure: Figure, title: str, answers: Answers) -> None:
    """Counts of the decisions, shaded by the share of the row."""
    axes = figure.subplots()
    counts = sk.confusion_matrix(answers.malignant, answers.decisions, labels=[True, False])
    shares = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        colour = "white" if shares[row, column] > 0.55 else "black"
        text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    axes.set(title=f"{title}\n% of each actual class", xlabel="predicted", ylabel="actual")
    axes.set_xticks([0, 1], ["melanoma", "benign"])
    axes.set_yticks([0, 1], ["melanoma", "benign"], rotation=90, va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def draw_map(figure: Figure, title: str, embeddings: Embeddings, malignant: Bools) -> None:
    """Embeddings on their two principal axes; melanomas are drawn last, because they are few."""
    axes = figure.subplots()
    model = PCA(2, svd_solver="full").fit(embeddings.astype(np.float64))
    points = model.transform(embeddings.astype(np.float64))
    for name, which, colour, marker in (("benign", ~malignant, BENIGN, "o"), ("melanoma", malignant, MELANOMA, "^")):
        first, second = points[which].T
        axes.scatter(first, second, s=30, c=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    labels = [
        f"principal axis {number} ({share:.0%} of the variance)"
        for number, share in enumerate(model.explained_variance_ratio_, 1)
    ]
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal", adjustable="datalim")
    axes.legend()


def worst_misses(answers: Answers, most: int = MISSES) -> Ints:
    """Return the wrong answers that were given with the most certainty: missed melanomas, then false alarms.

    Returns:
        Positions in `answers`, at most `most` of each kind, the worst first.
    """
    missed = np.flatnonzero(answers.malignant & ~answers.decisions)
    alarms = np.flatnonzero(~answers.malignant & answers.decisions)
    missed = missed[np.argsort(answers.scores[missed], kind="stable")]
    alarms = alarms[np.argsort(-answers.scores[alarms], kind="stable")]
    return np.concatenate([missed[:most], alarms[:most]])


def miss_lines(answers: Answers, index: pd.DataFrame, shards: Shards, references: References) -> list[list[Tile]]:
    """Return a line of a sheet for each of the worst misses: the lesion, then its nearest references.

    Args:
        answers: for the images of a split, `(N,)`.
        index: `row, image_name` of these images, N rows.
        shards: the images.
        references: that answered.
    """
    worst = worst_misses(answers)
    lines = []
    for position, image in zip(worst, shards.images(index["row"].to_numpy()[worst]), strict=True):
        malignant = bool(answers.malignant[position])
        text = f"{'missed' if malignant else 'false alarm'}, p = {answers.probabilities[position]:.3f}"
        nearest = references.table.iloc[answers.nearest[position, :NEIGHBOURS]]
        tiles = reference_tiles(nearest.assign(distance=answers.distances[position, :NEIGHBOURS]), shards)
        lines.append([Tile(image, f"{index['image_name'].iloc[position]}\n{text}", malignant), *tiles])
    return lines


def describe_test_images(malignant: Bools, drawn: bool) -> str:
    """Return what a title says of the images of the test split; where they are `drawn`, that they are."""
    return f"{len(malignant):,}{' drawn' if drawn else ''} images, {int(malignant.sum()):,} melanoma"


def write_curves(folder: Path, answers: Answers, evaluation: Evaluation, drawn: bool) -> None:
    """Write the pictures of the answers: `roc`, `precision_recall`, `reliability` and `confusion`, `.png`.

    Where the images are `drawn`, they say so, and the first shows no dermatologists, who have not seen such.
    """
    figures = evaluation.figures
    fpr, tpr, _ = sk.roc_curve(answers.malignant, answers.scores)
    curve = Roc("this model", fpr, tpr, figures["roc_auc"])
    band = evaluation.band, evaluation.confidence
    counts = describe_test_images(answers.malignant, drawn)
    beside, below = f"test split: {counts}", f"test split\n{counts}"
    write_figure(
        folder / "roc.png",
        lambda figure: draw_roc(figure, f"ROC, {beside}", [curve], band, figures, not drawn),
        height=5.6,
    )
    write_figure(
        folder / "precision_recall.png",
        lambda figure: draw_precision_recall(figure, f"Precision and recall, {below}", answers, figures),
        height=5.6,
    )
    write_figure(
        folder / "reliability.png",
        lambda figure: draw_reliability(figure, f"Reliability, {beside}", answers, evaluation),
        8.4,
        5.15,
    )
    write_figure(
        folder / "confusion.png", lambda figure: draw_confusion(figure, f"Confusion, {below}", answers), 4.0, 4.2
    )


def write_map(path: Path, embeddings: Embeddings, malignant: Bools, drawn: bool) -> None:
    """Write the map of the test embeddings."""
    title = f"Embeddings, test split\n{describe_test_images(malignant, drawn)}"
    write_figure(path, lambda figure: draw_map(figure, title, embeddings, malignant))


def write_misses(path: Path, answers: Answers, index: pd.DataFrame, shards: Shards, references: References) -> None:
    """Write the sheet of the worst misses; the arguments are those of `miss_lines`."""
    title = (
        "Missed melanomas and false alarms given with most certainty; the references most like them, at the distance d"
    )
    write_sheet(path, title, miss_lines(answers, index, shards, references))
