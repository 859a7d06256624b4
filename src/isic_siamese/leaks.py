"""Leak checks: nothing that is in one split may be known from another."""

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.fft import dctn

from isic_siamese.arrays import Ints
from isic_siamese.errors import DataError
from isic_siamese.shards import READ_BATCH, Shards

log = logging.getLogger(__name__)

Thumbnails = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]

THUMB_PX = 32
HASH_SIDE = 16  # lowest frequencies on each axis: 255 bits; with the usual 63, unlike nevi come within 4 bits
# Measured on 854 ISIC 2020 images, 364,231 pairs in 8 orientations: unlike images are at least 48 bits apart, three
# times as many for every 6 bits more, and correlate at 0.97 at most. The official duplicates are 0 bits apart, an
# image and its copy at JPEG quality 30 at most 26 in 95 % of cases. In the full release 24 bits would propose about
# ten unlike pairs; that one of them correlates at 0.98 as well is unlikely.
MAX_BITS = 24
MIN_CORRELATION = 0.98
CHUNK = 4_000_000  # distances held at a time
SHOWN = 5  # examples in a message


def shard_thumbnails(shards: Shards, task: str) -> Thumbnails:
    """Return the thumbnails of all images of `shards`, in row order; a progress bar names the `task`."""
    return np.concatenate([thumbnails(batch) for batch in shards.batches(np.arange(len(shards)), READ_BATCH, task)])


def thumbnails(images: npt.NDArray[np.uint8]) -> Thumbnails:
    """Shrink RGB images, uint8 `(N, H, H, 3)`, to grey float32 `(N, 32, 32)` by the means of blocks."""
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32)
    edges = np.linspace(0, grey.shape[1], THUMB_PX, endpoint=False).astype(np.int64)
    heights = np.maximum(np.diff(edges, append=grey.shape[1]), 1).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(grey, edges, axis=1), edges, axis=2)
    return np.asarray(sums / (heights[:, None] * heights), np.float32)


def perceptual_hashes(thumbs: Thumbnails) -> Hashes:
    """Return the 255 bits of each thumbnail, uint64 `(N, 4)`: which low frequencies are above their median (pHash)."""
    frequencies = dctn(thumbs, axes=(1, 2))[:, :HASH_SIDE, :HASH_SIDE].reshape(len(thumbs), -1)[:, 1:]
    bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
    return np.packbits(np.pad(bits, ((0, 0), (0, 1))), axis=1).view(np.uint64)


def near_duplicates(ours: Thumbnails, theirs: Thumbnails) -> list[tuple[int, int]]:
    """Find the images of `ours` that are the same picture as one of `theirs`: saved again, mirrored or turned too.

    A hash within `MAX_BITS` proposes a pair, the correlation of the thumbnails confirms it. A copy that was cropped by
    more than about 1 % of its side is not found.

    Returns:
        Positions in `ours` and in `theirs`, in order, each pair once.
    """
    hashes = perceptual_hashes(theirs)
    found = set()
    for turned in _orientations(ours):
        for i, j in _close_hashes(perceptual_hashes(turned), hashes):
            if _correlation(turned[i], theirs[j]) >= MIN_CORRELATION:
                found.add((i, j))
    return sorted(found)


def _orientations(thumbs: Thumbnails) -> Iterator[Thumbnails]:
    for quarter in range(4):
        turned = np.rot90(thumbs, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _close_hashes(ours: Hashes, theirs: Hashes) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK // max(1, len(theirs)))
    for start in range(0, len(ours), step):
        some = ours[start : start + step]
        # The last two words first: unlike images rarely come so near even in half of the bits.
        i, j = np.nonzero(
            sum(np.bitwise_count(some[:, None, word] ^ theirs[None, :, word]) for word in (2, 3)) <= MAX_BITS
        )
        near = np.bitwise_count(some[i] ^ theirs[j]).sum(axis=1) <= MAX_BITS
        yield from zip((start + i[near]).tolist(), j[near].tolist(), strict=True)


def _correlation(one: Thumbnails, other: Thumbnails) -> float:
    a, b = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / length if length else 0.0


def check_leaks(index: pd.DataFrame, rows: dict[str, Ints], removed: pd.Series, thumbs: Thumbnails) -> dict[str, int]:
    """Refuse splits that share a patient, a lesion, a duplicate or a near-identical image.

    Args:
        index: a row an image, with `image_name, patient_id, lesion_id`.
        rows: of each split.
        removed: names of the official duplicates, which must be in no split.
        thumbs: of all images, by row.

    Returns:
        How many of each kind were compared, for the metrics.

    Raises:
        DataError: there is a leak; the message counts each kind and names some of them.
    """
    split = pd.Series(index=index.index, dtype=object)
    for name, its_rows in rows.items():
        split.iloc[its_rows] = name
    problems = [
        *_shared(index["patient_id"], split, "patients"),
        *_shared(index["lesion_id"], split, "lesions"),
        *_shared(index["image_name"], split, "images"),
        *_listed("official duplicates", index["image_name"][index["image_name"].isin(set(removed))].tolist()),
        *_listed("near-identical images", _same_pictures(index, rows, thumbs)),
    ]
    if problems:
        raise DataError(
            f"data/splits.csv: the splits share {'; '.join(problems)}; run 'dvc repro -f split', or list one image of "
            "each in shards.exclude"
        )
    return {
        "patients": int(index["patient_id"].nunique()),
        "lesions": int(index["lesion_id"].replace("", np.nan).nunique()),
        "images": len(index),
    }


def shared_pictures(index: pd.DataFrame, thumbs: Thumbnails) -> list[tuple[int, int]]:
    """Find the pictures that two patients share, beyond the official duplicates, and log some of their names.

    Such patients must stay in one split, as `splits.split_patients` keeps them.

    Args:
        index: a row an image, with `image_name, patient_id`.
        thumbs: of all images, by row.

    Returns:
        Pairs of rows, the smaller first.
    """
    names, patients = index["image_name"].to_numpy(object), index["patient_id"].to_numpy(object)
    # Turning one of them or the other is not the same to a hash, so a pair may be found one way only.
    found_pairs = {(min(pair), max(pair)) for pair in near_duplicates(thumbs, thumbs)}
    pairs = sorted((i, j) for i, j in found_pairs if patients[i] != patients[j])
    found = [f"{names[i]} and {names[j]}" for i, j in pairs]
    for text in _listed("pairs of near-identical pictures of two patients, who stay together", found):
        log.info(text)
    return pairs


def _shared(names: pd.Series, split: pd.Series, kind: str) -> list[str]:
    known = names != ""  # a ground truth v1 has no lesion_id
    spread = split[known].groupby(names[known], sort=True).nunique()
    return _listed(kind, spread.index[spread > 1].tolist())


def _listed(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"]


def _same_pictures(index: pd.DataFrame, rows: dict[str, Ints], thumbs: Thumbnails) -> list[str]:
    names = index["image_name"].to_numpy(object)
    found = []
    for held_out, others in (("test", ("train", "val")), ("val", ("train",))):
        ours, theirs = rows[held_out], np.concatenate([rows[other] for other in others])
        pairs = near_duplicates(thumbs[ours], thumbs[theirs])
        found += [f"{names[ours[i]]} and {names[theirs[j]]}" for i, j in pairs]
    return found
