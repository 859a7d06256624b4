"""Write the images of zips into shards: each JPEG decoded once, straight out of its zip, on all cores.

A shard is the unit of work, on one machine or on many, and its bytes depend on nothing but its images: not on who
wrote it, nor when. Finished shards wait in a work folder until all are there, each with the sizes of its images, so a
run that was killed goes on where it was.
"""

import hashlib
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from io import FileIO
from pathlib import Path, PurePosixPath
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import pandas as pd
from tqdm import tqdm

from isic_siamese import images
from isic_siamese.errors import DataError, ParamsError
from isic_siamese.executors import start_executor
from isic_siamese.files import write_csv, write_npy
from isic_siamese.images import decode_sized
from isic_siamese.release import reading
from isic_siamese.shards_params import Fit, ShardsParams

logger = logging.getLogger(__name__)

Problem = tuple[PurePosixPath, str]  # an image, by its zip and member, and why it cannot be decoded


@dataclass(frozen=True)
class ImageSet:
    """Images of one zip, named by their members in the order of the rows, and the folder for their shards."""

    source: Path
    members: Sequence[str]
    folder: Path


@dataclass(frozen=True)
class ShardTask:
    """All it takes to write one shard, on any machine that sees the same files."""

    source: Path  # absolute, as `target` is: a worker may run in another folder
    members: Sequence[str]
    target: Path
    image_px: int
    fit: Fit

    @property
    def sizes(self) -> Path:
        """Where the size of each image goes, as `width,height`."""
        return self.target.with_suffix(".csv")

    def is_done(self) -> bool:
        """Whether an earlier run wrote both files."""
        return self.target.exists() and self.sizes.exists()


def drop_images(truth: pd.DataFrame, duplicates: pd.DataFrame, exclude: Sequence[str]) -> pd.DataFrame:
    """Return the rows `image_name, reason` of the images of `truth` to leave out, in its order.

    The reason is `excluded` (the user said so), else `duplicate`: the same picture is there under another name, the
    `image_name_1` of `duplicates`, or where that one is excluded, the first of its copies.
    """
    names = truth["image_name"]
    copies = duplicates[~duplicates["image_name_2"].isin(exclude)]
    first = copies["image_name_1"]
    stands_in = first.isin(exclude) & ~first.duplicated()
    reasons = names.map(
        dict.fromkeys(copies.loc[~stands_in, "image_name_2"], "duplicate") | dict.fromkeys(exclude, "excluded")
    )
    return pd.DataFrame({"image_name": names, "reason": reasons}).dropna()


def check_excluded(exclude: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a misspelt name, which would exclude nothing.

    Raises:
        ParamsError: `exclude` has a name that is not among `names`.
    """
    unknown = sorted(set(exclude) - set(names))
    if unknown:
        raise ParamsError(
            f"shards.exclude: no such image in the release: {', '.join(unknown)}; "
            "check the spelling: wanted names without folder and .jpg"
        )


def write_index(folder: Path, table: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Write `index.csv`: `row`, the columns of `table`, then `sizes`; a line an image, in the order of the shards."""
    index = pd.concat([table.reset_index(drop=True), sizes], axis=1)
    index.insert(0, "row", range(len(index)))
    write_csv(folder / "index.csv", index)


def write_shards(
    sets: Sequence[ImageSet], work: Path, params: ShardsParams, workers: int | None = None
) -> list[pd.DataFrame]:
    """Decode each of `sets` into `shard-00000.npy` and so on in its folder, on `workers` threads (None: all cores).

    Threads suffice, as decoding and resizing leave Python's lock alone. With `DASK_SCHEDULER_ADDRESS` set in the
    environment, the workers of that Dask cluster do the work instead; they must see the same files by the same paths.

    Args:
        sets: what to decode, and where to.
        work: a folder for finished shards until all are there, on the same file system as those of `sets`. What a
            killed run left there is used; it is deleted at the end.
        params: image size, fit, images in a shard.
        workers: shards written at a time.

    Returns:
        For each of `sets` the size of each image at full resolution, held upright: `width, height`, pixels, int64.

    Raises:
        DataError: members are absent or corrupt. All are named, and the other shards stay in `work` for the next run.
    """
    plans = [_plan(image_set, work, params) for image_set in sets]
    tasks = [task for plan in plans for task in plan]
    try:
        problems = _run(tasks, workers)
    finally:
        _open_version.cache_clear()
    if problems:
        what = f"images that cannot be decoded: {len(problems):,}"
        advice = "take other copies of them, or leave them out knowingly, in the section shards of params.yaml:"
        lines = [f"{image}: {problem}" for image, problem in problems]
        names = [image.stem for image, _ in problems]
        paste = f"exclude: {[*params.exclude, *names]}"  # quoted, or YAML would take 0033704 for a number
        raise DataError("\n".join([f"{sets[0].source.parent}: {what}", *lines, advice, paste]))
    sizes = [_read_sizes(plan) for plan in plans]
    for image_set, plan in zip(sets, plans, strict=True):
        _place(plan, image_set.folder)
    shutil.rmtree(work, ignore_errors=True)
    return sizes


def write_shard(task: ShardTask) -> list[Problem]:
    """Decode the members of `task` into its two files; if any cannot be, write nothing and return what is wrong."""
    shard = np.empty((len(task.members), task.image_px, task.image_px, 3), np.uint8)
    sizes, problems = [], []
    archive = _open_zip(task.source)
    with task.source.open("rb", buffering=0) as file:
        for row, member in enumerate(task.members):
            try:
                shard[row], size = decode_sized(_read_member(archive, file, member), task.image_px, task.fit)
                sizes.append(size)
            except KeyError:
                problems.append((PurePosixPath(task.source.name, member), "not in the zip"))
            except (DataError, BadZipFile, zlib.error, EOFError, OSError, RuntimeError, struct.error) as error:
                problems.append((PurePosixPath(task.source.name, member), str(error)))
    if not problems:
        write_csv(task.sizes, pd.DataFrame(sizes, columns=["width", "height"]))
        write_npy(task.target, shard)
    return problems


def _read_member(archive: ZipFile, file: FileIO, member: str) -> bytes:
    """Read a stored member from `file`, which is this thread's own; the one of `archive` is read by one at a time."""
    info = archive.getinfo(member)
    if info.compress_type != ZIP_STORED:
        return archive.read(info)
    file.seek(info.header_offset + 26)  # of the member's own header, 30 bytes: here are the lengths of what follows it
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
    content = file.read(info.file_size)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise BadZipFile(f"Bad CRC-32 for file {member!r}")
    return content


def _open_zip(path: Path) -> ZipFile:
    with reading(path, (BadZipFile, OSError), "not a whole zip", "delete it and run 'dvc repro download'"):
        return _open_version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _open_version(path: Path, _: int) -> ZipFile:  # when it was changed: a replaced zip must not come from the cache
    """Open a zip once for all the shards of a process: reading the directory of 33,126 members takes a while."""
    return ZipFile(path)


def _plan(image_set: ImageSet, work: Path, params: ShardsParams) -> list[ShardTask]:
    """Cut the images into shards, each named in `work` by a digest of all that its bytes depend on."""
    source = image_set.source.absolute()
    crcs = {info.filename: info.CRC for info in _open_zip(source).infolist()}
    recipe = _recipe(params.image_px, params.fit)
    tasks = []
    for start in range(0, len(image_set.members), params.images_per_shard):
        members = image_set.members[start : start + params.images_per_shard]
        digest = hashlib.sha256(recipe)
        digest.update("\n".join(f"{member} {crcs.get(member)}" for member in members).encode())
        target = work.absolute() / image_set.folder.name / f"{start}-{digest.hexdigest()[:32]}.npy"
        tasks.append(ShardTask(source, members, target, params.image_px, params.fit))
    return tasks


def _recipe(image_px: int, fit: Fit) -> bytes:
    """Return what turns a JPEG into an image: the parameters, the libraries and the code."""
    versions = [version(name) for name in ("Pillow", "simplejpeg", "torch")]
    return repr((image_px, fit, versions)).encode() + Path(images.__file__).read_bytes()


def _run(tasks: Sequence[ShardTask], workers: int | None) -> list[Problem]:
    """Write the shards that are not there yet; return the problems of all, in the order of `tasks`."""
    missing = [task for task in tasks if not task.is_done()]
    if len(missing) < len(tasks):
        logger.info("%d of %d shards are there from an earlier run", len(tasks) - len(missing), len(tasks))
    n_images = sum(len(task.members) for task in missing)
    with start_executor(workers or os.cpu_count() or 1) as executor, tqdm(total=n_images, unit="image") as bar:
        futures = {executor.submit(write_shard, task): task for task in missing}
        for future in as_completed(futures):
            future.result()  # raises what the task raised, before the others are waited for
            bar.update(len(futures[future].members))
    return [problem for future in futures for problem in future.result()]


def _read_sizes(tasks: Sequence[ShardTask]) -> pd.DataFrame:
    if not tasks:  # all test images are excluded
        return pd.DataFrame({"width": [], "height": []}, dtype="int64")
    return pd.concat([pd.read_csv(task.sizes) for task in tasks], ignore_index=True)


def _place(tasks: Sequence[ShardTask], folder: Path) -> None:
    """Move the finished shards into `folder`, in the place of those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("shard-*.npy"):
        stale.unlink()
    for number, task in enumerate(tasks):
        task.target.replace(folder / f"shard-{number:05}.npy")
