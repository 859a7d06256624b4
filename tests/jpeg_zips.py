"""Zips of small JPEGs, and what their shards are known by, for the tests of writing them."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from isic_siamese.shard_writer import ImageSet
from isic_siamese.shards_params import ShardsParams

NAMES = [f"ISIC_{number:07}" for number in range(23)]


def draw_jpeg(number: int, width: int = 200, height: int = 150) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def draw_members() -> dict[str, bytes]:
    """A JPEG for each of `NAMES`, no two of one size."""
    return {f"train/{name}.jpg": draw_jpeg(number, 200 + number) for number, name in enumerate(NAMES)}


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def image_set(folder: Path, source: Path, name: str = "train") -> ImageSet:
    return ImageSet(source, [f"train/{name}.jpg" for name in NAMES], folder / name)


def params(**changes: object) -> ShardsParams:
    fields = {"image_px": 32, "fit": "stretch", "images_per_shard": 4, "exclude": []}
    return ShardsParams.model_validate(fields | changes)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def written(folder: Path) -> set[tuple[int, int]]:
    """What a file keeps when it is moved, and loses when it is written again."""
    stats = [path.stat() for path in folder.glob("[!.]*.npy")]
    return {(stat.st_ino, stat.st_mtime_ns) for stat in stats}
