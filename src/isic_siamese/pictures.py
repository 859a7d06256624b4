"""One style for all pictures: colours that colour-blind readers tell apart, and the same bytes each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isic_siamese.files import replacing

# Okabe and Ito (2008), "Color universal design".
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#6B6B6B"
STYLE: Any = {  # typed by matplotlib as a literal of every key
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that no machine draws another
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}
CHOSEN: dict[str, Any] = {
    "marker": "o",
    "markersize": 12,
    "markerfacecolor": "none",  # nothing under it is hidden
    "markeredgewidth": 2,
    "linestyle": "",
    "label": "operating point, set on validation",
}


def unit_axes(figure: Figure, title: str, x: str, y: str) -> Axes:
    """Return axes of `figure` from 0 to 1 both ways, for two rates named `x` and `y`."""
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def write_figure(path: Path, draw: Callable[[Figure], None], width: float = 5.4, height: float = 5.0) -> None:
    """Draw on an empty figure of `width` by `height` inches and write it as PNG, without a date or version in it."""
    with mpl.rc_context(), replacing(path) as temporary:
        mpl.rcdefaults()  # whatever the user's own settings are
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height))
        draw(figure)
        figure.savefig(temporary, format="png", metadata={"Software": None})
