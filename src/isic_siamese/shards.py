"""Write the images of a zip into memory-mapped shards of small uint8 images, and read them."""

import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from isic_siamese.errors import DataError
from isic_siamese.files import replacing, write_csv
from isic_siamese.images import Fit, decode_image
from isic_siamese.params import Count, Section

logger = logging.getLogger(__name__)


class ShardsParams(Section):
    """The section `shards` of `params.yaml`."""

    image_px: Annotated[int, Field(ge=16, le=1024)]
    images_per_shard: Count
    exclude: list[str]
    fit: Fit = "stretch"


@dataclass(frozen=True)
class ShardTask:
    """What it takes to write one shard, in any process: the zip, its members in order, and the file to write."""

    source: Path
    members: Sequence[str]
    target: Path
    image_px: int
    fit: Fit


def write_shard(task: ShardTask) -> list[str]:
    """Decode the members of `task` into its shard; return a line for each that is corrupt, and then write nothing."""
    images = np.empty((len(task.members), task.image_px, task.image_px, 3), np.uint8)
    problems = []
    with zipfile.ZipFile(task.source) as archive:
        for row, member in enumerate(task.members):
            try:
                images[row] = decode_image(archive.read(member), task.image_px, task.fit)
            except KeyError:
                problems.append(f"{member}: not in the zip")
            except (DataError, zipfile.BadZipFile) as error:
                problems.append(f"{member}: {error}")
    if not problems:
        with replacing(task.target) as temporary:
            np.save(temporary, images)
    return problems


def write_shards(
    source: Path, members: Sequence[str], folder: Path, params: ShardsParams, workers: int | None = None
) -> None:
    """Decode `members` of the zip `source`, in order, into `shard-00000.npy` and so on in `folder`."""
    starts = range(0, len(members), params.images_per_shard)
    tasks = [
        ShardTask(
            source,
            members[start : start + params.images_per_shard],
            folder / f"shard-{number:05}.npy",
            params.image_px,
            params.fit,
        )
        for number, start in enumerate(starts)
    ]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers < 2:
        problems = [line for task in tasks for line in write_shard(task)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            problems = [line for lines in pool.map(write_shard, tasks) for line in lines]
    if problems:
        raise DataError(
            f"{source}: {len(problems)} images cannot be decoded; mend the zip or list them in shards.exclude:\n"
            + "\n".join(problems)
        )


def write_index(folder: Path, table: pd.DataFrame) -> None:
    """Write `index.csv`: `row`, then the columns of `table`, one line an image, in shard order."""
    index = table.reset_index(drop=True)
    index.insert(0, "row", range(len(index)))
    write_csv(folder / "index.csv", index)


def read_index(folder: Path) -> pd.DataFrame:
    """Read `index.csv` of `folder`: strings as written, `row` int64, `target` int64 when it is there.

    Raises:
        DataError: there is no such file.
    """
    path = folder / "index.csv"
    if not path.exists():
        raise DataError(f"{path}: no such file; run 'dvc repro shards' or 'dvc pull'")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.astype({name: "int64" for name in ("row", "target") if name in table})


class Shards:
    """The images of a folder of shards, memory-mapped: nothing is read until it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Map every shard of `folder`.

        Raises:
            DataError: there are none.
        """
        paths = sorted(folder.glob("shard-*.npy"))
        if not paths:
            raise DataError(f"{folder}: no shards; run 'dvc repro shards' or 'dvc pull'")
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])
        self.image_px = int(self._shards[0].shape[1])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def images(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Return the images at `rows`, uint8 `(len(rows), image_px, image_px, 3)`, RGB, in that order.

        Raises:
            IndexError: a row is not in 0..len - 1.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()}, wanted 0..{len(self) - 1}")
        images = np.empty((len(rows), self.image_px, self.image_px, 3), np.uint8)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            images[here] = self._shards[owner][rows[here] - self._starts[owner]]
        return images

    def batches(self, rows: npt.NDArray[np.integer], size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the images at `rows`, in that order, `size` at a time."""
        for start in range(0, len(rows), size):
            yield self.images(rows[start : start + size])
