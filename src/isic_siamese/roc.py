"""The picture of ROC curves: a network's with its band, those of its controls, and where dermatologists stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from isic_siamese.arrays import Floats
from isic_siamese.bootstrap import figure_text
from isic_siamese.measures import DERMATOLOGISTS, GRID, study_name
from isic_siamese.pictures import BLUE, CHOSEN, GREEN, GREY, ORANGE, PURPLE, VERMILLION, unit_axes

# The last is hollow and larger, because it lies on the one before.
STUDIES: dict[str, dict[str, Any]] = {
    "haenssle_2018": {"marker": "^", "color": VERMILLION},
    "brinker_2019": {"marker": "s", "color": GREEN},
    "haenssle_2020": {"marker": "D", "color": ORANGE},
    "phillips_2019": {"marker": "v", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": PURPLE},
}
STUDIES_LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "title": "dermatologists,\non lesions of their own studies",
    "title_fontsize": 8.5,
    "alignment": "left",
}
# Of the network, then of its controls.
LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE},
    {"color": "black", "linewidth": 1.0, "linestyle": "--"},
    {"color": GREY, "linewidth": 1.0, "linestyle": "-."},
    {"linestyle": ""},  # of one that would hide another: its area alone
)


@dataclass(frozen=True)
class Roc:
    """One ROC curve.

    Attributes:
        name: of what it is the curve of.
        false_alarm_rate: 1 - specificity, ascending, `(C,)`.
        sensitivity: at each, `(C,)`.
        area: the ROC AUC, as a figure of the metrics: `value`, and `low` and `high` where it has an interval.
    """

    name: str
    false_alarm_rate: Floats
    sensitivity: Floats
    area: Mapping[str, float]


def draw_roc(
    figure: Figure,
    title: str,
    curves: Sequence[Roc],
    band: tuple[Floats, float],
    decisions: Mapping[str, Mapping[str, float]],
    studies: bool,
) -> None:
    """Draw a network's ROC curve, those it is to be seen beside, and where dermatologists stand.

    Args:
        figure: to draw on.
        title: of the picture.
        curves: the network's, then those of at most two of its controls, then one that is named but not drawn.
        band: low and high end of the network's sensitivity on `measures.GRID`, `(2, G)`, and their confidence.
        decisions: the network's figures at its threshold, `sensitivity` and `specificity`.
        studies: whether to show dermatologists, on lesions of their own; none has seen drawn ones.
    """
    axes = unit_axes(figure, title, "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    ends, confidence = band
    label = f"{100 * confidence:g} % of the resamples of patients, at each point"
    shown: list[Artist] = [axes.fill_between(GRID, *ends, color=BLUE, alpha=0.18, linewidth=0, label=label)]
    for curve, style in zip(curves, LINES[: len(curves)], strict=True):
        label = f"{curve.name}, AUC {figure_text(curve.area)}"
        shown += axes.plot(curve.false_alarm_rate, curve.sensitivity, label=label, **style)
    shown += axes.plot(1 - decisions["specificity"]["value"], decisions["sensitivity"]["value"], color=BLUE, **CHOSEN)
    figure.legend(handles=shown, loc="outside lower center")
    if studies:
        axes.add_artist(axes.legend(handles=[_plot_study(axes, study) for study in STUDIES], **STUDIES_LEGEND))


def _plot_study(axes: Axes, study: str) -> Line2D:
    sensitivity, specificity = DERMATOLOGISTS[study]
    style: dict[str, Any] = {"markersize": 7, "markeredgecolor": "black", "linestyle": "", "zorder": 3} | STUDIES[study]
    (point,) = axes.plot(1 - specificity, sensitivity, label=study_name(study), **style)
    return point
