"""Read the shards: uint8 images in `.npy` files, and the index that says what each row is."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from isic_siamese.errors import DataError, explaining

NUMBERS = ("target", "width", "height")
READ_BATCH = 64  # images read at a time, where no network says how many


def read_index(folder: Path) -> pd.DataFrame:
    """Read `index.csv` of `folder`: strings as written, but `row`, and `target, width, height` where they are, int64.

    Raises:
        DataError: there is no such file, or it is not an index.
    """
    path = folder / "index.csv"
    with explaining(path, "not an index of shards", "shards"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        index = table.astype(dict.fromkeys(["row", *(name for name in NUMBERS if name in table)], "int64"))
        if not np.array_equal(index["row"], np.arange(len(index))):
            raise ValueError("rows are not 0, 1, 2 ...")
    return index


def read_removed(folder: Path) -> pd.DataFrame:
    """Read `image_name, reason` of the images that were left out of `folder`, strings.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    path = folder / "removed.csv"
    with explaining(path, "not a table of removed images", "shards"):
        return pd.read_csv(path, dtype=str, keep_default_na=False)[["image_name", "reason"]]


class _Shard(NamedTuple):
    """A file of `n` images of `image_px` pixels a side, which begin at byte `offset`."""

    path: Path
    n: int
    image_px: int
    offset: int


class Shards:
    """The images of a folder of shards; nothing is read until it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Look at every shard of `folder`.

        Raises:
            DataError: there are none, one of them is not whole, or they are not numbered 0, 1, 2 ...
        """
        self.folder = folder
        paths = sorted(folder.glob("shard-*.npy"), key=lambda path: (len(path.name), path.name))  # 99999, then 100000
        if not paths:
            raise DataError(f"{folder}: no shards; run 'dvc repro shards' or 'dvc pull'")
        for number, path in enumerate(paths):
            if path.name != (name := f"shard-{number:05}.npy"):
                raise DataError(f"{path}: wanted {name} in its place; run 'dvc repro -f shards' or 'dvc pull'")
        self._shards = [_check_shard(path) for path in paths]
        self._starts = np.cumsum([0] + [shard.n for shard in self._shards])
        self.image_px = self._shards[0].image_px
        for shard in self._shards:
            if shard.image_px != self.image_px:
                raise DataError(
                    f"{shard.path}: images of {shard.image_px} px, those of {paths[0].name} have {self.image_px}; "
                    "run 'dvc repro -f shards'"
                )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Return the images at `rows`, uint8 `(len(rows), image_px, image_px, 3)`, RGB, in that order.

        Raises:
            IndexError: a row is not in 0..len - 1.
            DataError: a shard has become shorter.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()}, wanted 0..{len(self) - 1}")
        images = np.empty((len(rows), self.image_px, self.image_px, 3), np.uint8)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        # Not memory-mapped: that is no faster, and mapped pages stay this process's memory until another needs it.
        for owner in np.unique(owners):
            shard, start = self._shards[owner], self._starts[owner]
            with shard.path.open("rb", buffering=0) as file:
                for place in np.flatnonzero(owners == owner):
                    file.seek(shard.offset + int(rows[place] - start) * images[place].nbytes)
                    if file.readinto(images[place]) != images[place].nbytes:
                        raise DataError(f"{shard.path}: ends too early; run 'dvc repro -f shards' or 'dvc pull'")
        return images

    def batches(
        self, rows: npt.NDArray[np.integer], size: int, task: str | None = None
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the images at `rows`, in that order, `size` at a time; with a `task`, a progress bar names it."""
        for start in tqdm(range(0, len(rows), size), task, disable=task is None):
            yield self.images(rows[start : start + size])


def read_shards(folder: Path) -> tuple[pd.DataFrame, Shards]:
    """Read the index of `folder`, see `read_index`, and look at its shards.

    Raises:
        DataError: as both do, or they are of different numbers of images.
    """
    index, shards = read_index(folder), Shards(folder)
    if len(index) != len(shards):
        counts = f"{len(shards):,} images in its shards, {len(index):,} in its index.csv"
        raise DataError(f"{folder}: {counts}; run 'dvc repro -f shards' or 'dvc pull'")
    return index, shards


def _check_shard(path: Path) -> _Shard:
    try:
        shard: np.memmap[tuple[int, ...], np.dtype[np.uint8]] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a whole shard: {error}; run 'dvc repro -f shards' or 'dvc pull'") from None
    order = "C" if shard.flags.c_contiguous else "Fortran"
    square = shard.ndim == 4 and shard.shape[1:] == (shard.shape[1], shard.shape[1], 3)
    if shard.dtype != np.uint8 or not square or order != "C":
        got = f"{shard.dtype} {shard.shape} in {order} order"
        raise DataError(f"{path}: {got}, wanted uint8 (n, px, px, 3) in C order; run 'dvc repro -f shards'")
    return _Shard(path, len(shard), shard.shape[1], int(shard.offset))
