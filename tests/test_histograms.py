from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from isic_siamese.histograms import draw_histogram, write_histograms


def test_each_histogram_holds_the_pairs_of_its_kind_alone() -> None:
    axes = Figure().subplots()
    same = np.arange(50) < 20
    draw_histogram(axes, "title", np.where(same, 0.31, 1.51), same, margin=1.0)
    outlines = [np.asarray(patch.get_path().vertices) for patch in axes.patches if patch.get_fill()]
    tops = [outline[outline[:, 1].argmax(), 0] for outline in outlines]
    assert tops == pytest.approx([0.28, 1.48], abs=0.05)
    assert axes.get_legend_handles_labels()[1] == ["same class, n = 20", "different class, n = 30", "margin 1"]
    draw_histogram(bare := Figure().subplots(), "title", np.where(same, 0.31, 1.51), same, margin=None)
    assert bare.get_legend_handles_labels()[1] == ["same class, n = 20", "different class, n = 30"]


def test_one_panel_is_as_wide_as_the_other_pictures_and_two_stand_side_by_side(tmp_path: Path) -> None:
    distances, same = np.linspace(0, 2, 40), np.arange(40) < 20
    for n, width in ((1, 810), (2, 1260)):
        panels = {f"panel {i}": distances for i in range(n)}
        write_histograms(tmp_path / "panels.png", panels, same, margin=1.0)
        with Image.open(tmp_path / "panels.png") as image:
            assert image.width == width
