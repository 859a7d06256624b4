from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from isic_siamese.sheets import FRAMES, Tile, draw_sheet, write_sheet

GREY_IMAGE = np.full((4, 4, 3), 128, np.uint8)


def test_a_tile_has_its_text_and_a_frame_of_its_class() -> None:
    figure = Figure()
    draw_sheet(figure, "title", [[Tile(GREY_IMAGE, f"tile {malignant}", malignant) for malignant in FRAMES]])
    for axes, (malignant, colour) in zip(figure.axes, FRAMES.items(), strict=True):
        assert axes.get_title() == f"tile {malignant}"
        assert to_hex(axes.spines["left"].get_edgecolor()).upper() == colour
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), GREY_IMAGE)


def test_a_name_is_written_as_it_is_whatever_mathematics_it_looks_like(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", "title", [[Tile(GREY_IMAGE, "$_$", None)]])
    assert (tmp_path / "sheet.png").exists()


def test_a_sheet_grows_with_its_lines_and_is_the_same_bytes_twice(tmp_path: Path) -> None:
    heights = []
    for n_lines in (0, 1, 3):
        for name in ("one.png", "two.png"):
            write_sheet(tmp_path / name, "title", [[Tile(GREY_IMAGE, "one\ntwo", None)] * 6] * n_lines)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        with Image.open(tmp_path / "one.png") as image:
            assert image.width == 1260
            heights.append(image.height)
    assert heights == sorted(set(heights))


def test_the_lesion_is_outlined_where_it_was_found() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[20:44, 24:52] = 80
    figure = Figure()
    draw_sheet(figure, "title", [[Tile(image, "lesion", None)]])
    (outline,) = figure.axes[0].collections
    (path,) = outline.get_paths()
    corners = np.asarray(path.vertices)
    np.testing.assert_allclose(corners.min(axis=0), [24, 20], atol=1.5)
    np.testing.assert_allclose(corners.max(axis=0), [51, 43], atol=1.5)
