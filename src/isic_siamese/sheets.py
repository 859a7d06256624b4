"""Sheets of lesions, a line each: the lesion, then the references it is most like, outlined where they were found."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isic_siamese.lesion_map import SIDE, lesion_map
from isic_siamese.pictures import BLUE, GREY, VERMILLION, write_figure
from isic_siamese.references import WORDS
from isic_siamese.shards import Shards

FRAMES = {True: VERMILLION, False: BLUE, None: GREY}  # melanoma, benign, not known


class Tile(NamedTuple):
    """An image, uint8 RGB `(H, W, 3)`, the text above it, and the class that colours its frame, where it is known."""

    image: npt.NDArray[np.uint8]
    text: str
    malignant: bool | None


def reference_tiles(lesions: pd.DataFrame, shards: Shards) -> list[Tile]:
    """Return a tile for each reference lesion of `lesions`: `row, image_name, target`, and its `distance`."""
    tiles = []
    for photograph, (_, lesion) in zip(shards.images(lesions["row"].to_numpy()), lesions.iterrows(), strict=True):
        text = f"{lesion['image_name']}\n{WORDS[lesion['target']]}, d = {lesion['distance']:.3f}"
        tiles.append(Tile(photograph, text, bool(lesion["target"])))
    return tiles


def draw_sheet(figure: Figure, title: str, lines: Sequence[Sequence[Tile]]) -> None:
    """Draw `lines` of as many tiles each; of none, the word."""
    figure.suptitle(f"{title}\nFrames: orange melanoma, blue benign, grey not known", fontsize=10)
    if not lines:
        figure.text(0.5, 0.5, "none", ha="center")
        return
    grid = figure.subplots(len(lines), len(lines[0]), squeeze=False)
    for line, row in zip(lines, grid, strict=True):
        for tile, axes in zip(line, row, strict=True):
            _draw_tile(axes, tile)


def _draw_tile(axes: Axes, tile: Tile) -> None:
    axes.imshow(tile.image)
    _outline(axes, tile.image)
    axes.set_title(tile.text, fontsize=8, loc="center", parse_math=False)  # a file may be called $_$.jpg
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FRAMES[tile.malignant], linewidth=2.5)


def _outline(axes: Axes, image: npt.NDArray[np.uint8]) -> None:
    """Draw where the network takes the lesion to end: where its map has half of its highest value."""
    found = lesion_map(torch.from_numpy(np.array(image))[None])[0].numpy()
    across, down = ((np.arange(SIDE) + 0.5) / SIDE * side - 0.5 for side in (image.shape[1], image.shape[0]))
    axes.contour(across, down, found, levels=[found.max() / 2], colors="white", linewidths=0.8)


def write_sheet(path: Path, title: str, lines: Sequence[Sequence[Tile]]) -> None:
    """Write the sheet of `draw_sheet` as PNG."""
    width = 1.4 * max((len(line) for line in lines), default=6)
    height = 1.3 + 0.15 * max((1 + tile.text.count("\n") for line in lines for tile in line), default=1)
    write_figure(path, lambda figure: draw_sheet(figure, title, lines), width, 0.55 + height * max(1, len(lines)))
