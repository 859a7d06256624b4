"""Histograms of the distances of pairs, same class and different: of the test split, and as training moved them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isic_siamese.arrays import Bools, Floats
from isic_siamese.pictures import GREEN, GREY, VERMILLION, write_figure


def draw_histogram(axes: Axes, title: str, distances: Floats, same: Bools, margin: float | None) -> None:
    """Draw the densities of the distances `(P,)` of same pairs and of different ones, and the margin if any."""
    bins = np.linspace(0, 2, 51).tolist()
    for name, which, colour in (("same class", same, GREEN), ("different class", ~same, VERMILLION)):
        axes.hist(distances[which], bins, density=True, histtype="stepfilled", color=colour, alpha=0.25)
        label = f"{name}, n = {int(which.sum()):,}"
        axes.hist(distances[which], bins, density=True, histtype="step", color=colour, linewidth=1.4, label=label)
    if margin is not None:
        axes.axvline(margin, color=GREY, linewidth=1, linestyle="--", label=f"margin {margin:g}")
    axes.set(title=title, xlabel="Euclidean distance", ylabel="density", xlim=(0, 2))
    axes.legend(loc="best")


def write_histograms(path: Path, panels: dict[str, Floats], same: Bools, margin: float | None) -> None:
    """Write the histograms of the same pairs `(P,)`, measured more than once, side by side; `panels` by title."""

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (title, distances) in zip(row, panels.items(), strict=True):
            draw_histogram(axes, title, distances, same, margin)

    write_figure(path, draw, width=5.4 if len(panels) == 1 else 4.2 * len(panels), height=3.6)
