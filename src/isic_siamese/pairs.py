"""Draw the balanced pair index: which views of which images are compared, and whether they are of the same class."""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from isic_siamese.arrays import Bools, Ints, as_bools
from isic_siamese.errors import DataError, explaining
from isic_siamese.params import Section

COLUMNS = ["block", "left", "right", "left_view", "right_view", "same"]


class PairsParams(Section):
    """Section `pairs`: a block is a run of pairs among few views, what one training step sees."""

    views_per_block: Annotated[int, Field(ge=4, multiple_of=2)]
    pairs_per_block: Annotated[int, Field(ge=4, multiple_of=4)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        half = self.views_per_block // 2
        most = 4 * (half * (half - 1) // 2)
        if self.pairs_per_block > most:
            raise ValueError(
                f"{self.views_per_block} views make at most {most} balanced pairs, got {self.pairs_per_block}"
            )
        return self


def draw_pairs(
    rows: Ints, malignant: Bools, params: PairsParams, rng: np.random.Generator, oversample: bool
) -> pd.DataFrame:
    """Draw one pass over the images of a split as balanced pairs, ordered block by block.

    Half of the pairs are the same class, half different; of the same ones half are melanoma, half benign. Every image
    of the larger class is a view once, those of the smaller one as often as it takes to match; where a block has few
    pairs for its views, some are in none. No image is paired with itself. A block holds `pairs_per_block` pairs, fewer
    where a split has too few images to tell them apart; one without any pair, as may be with `views_per_block` 4, is
    left out, and its number with it.

    Args:
        rows: the images of one split, `(n,)`.
        malignant: whether each of them is melanoma, bool (or 0 and 1) `(n,)`.
        params: the size of a block.
        rng: the source of chance.
        oversample: number the repeats of an image as views 1, 2, ..., which training augments. Otherwise, as in
            validation and test, all are view 0, the image as it is.

    Returns:
        `block`, `left, right` (rows), `left_view, right_view`, `same` (1 or 0).

    Raises:
        DataError: a class has fewer than two images.
        ValueError: labels are something else.
    """
    malignant = as_bools(malignant)
    classes = [rows[malignant], rows[~malignant]]
    for name, members in zip(("melanoma", "benign"), classes, strict=True):
        if len(members) < 2:
            raise DataError(f"pairs: wanted at least 2 {name} images in a split, got {len(members)}")
    n = max(len(members) for members in classes)
    n_blocks = -(-n // (params.views_per_block // 2))
    # array_split keeps the blocks even, so that the last one is not left with a view or two.
    melanoma, benign = (np.array_split(_views(members, n, rng, oversample), n_blocks) for members in classes)
    blocks = [_pair_block(m, b, params.pairs_per_block, rng) for m, b in zip(melanoma, benign, strict=True)]
    pairs = pd.DataFrame(np.concatenate(blocks), columns=COLUMNS[1:])
    pairs.insert(0, COLUMNS[0], np.repeat(np.arange(n_blocks), [len(block) for block in blocks]))
    return pairs


def _views(members: Ints, n: int, rng: np.random.Generator, oversample: bool) -> Ints:
    """Return `n` (row, view) as `(n, 2)`: the members in a new order on each round, the round being the view."""
    rounds = -(-n // len(members))
    order = np.concatenate([rng.permutation(members) for _ in range(rounds)])[:n]
    view = np.repeat(np.arange(rounds), len(members))[:n] if oversample else np.zeros(n, np.int64)
    return np.column_stack([order, view])


def _pair_block(melanoma: Ints, benign: Ints, n_pairs: int, rng: np.random.Generator) -> Ints:
    """Return the pairs of one block as `(p, 5)`, columns as the last of `COLUMNS`, from two lists of views `(v, 2)`."""
    melanoma, benign = np.unique(melanoma, axis=0), np.unique(benign, axis=0)
    alike = [_combinations(melanoma), _combinations(benign)]
    across = np.concatenate([np.repeat(melanoma, len(benign), axis=0), np.tile(benign, (len(melanoma), 1))], axis=1)
    # Of different pairs there are always more than twice as many as of the rarer kind of same-class pairs.
    quarter = min(n_pairs // 4, len(alike[0]), len(alike[1]))
    drawn = [rng.choice(kind, quarter, replace=False) for kind in alike]
    drawn.append(rng.choice(across, 2 * quarter, replace=False))
    ends = np.concatenate(drawn)
    # Which side an image stands on must say nothing of its class.
    swapped = rng.random(len(ends)) < 0.5
    ends[swapped] = ends[swapped][:, [2, 3, 0, 1]]
    same = np.arange(len(ends)) < 2 * quarter
    pairs = np.column_stack([ends[:, [0, 2]], ends[:, [1, 3]], same])
    return rng.permutation(pairs)


def _combinations(views: Ints) -> Ints:
    """Return all pairs of views of different images, `(c, 4)`: row, view, row, view."""
    i, j = np.triu_indices(len(views), k=1)
    different = views[i, 0] != views[j, 0]
    return np.concatenate([views[i[different]], views[j[different]]], axis=1)


def read_pairs(path: Path, rows: Ints) -> pd.DataFrame:
    """Read the pair index of the split whose images are at `rows` `(n,)`, all columns int64.

    Raises:
        DataError: the file is absent, is no pair index, or has pairs of other images, such as those of another seed.
    """
    with explaining(path, "not a pair index", "pairs"):
        pairs = pd.read_csv(path, dtype=np.int64)[COLUMNS]
        if pairs.empty:
            raise ValueError("no pairs")
    foreign = np.setdiff1d(pairs[["left", "right"]], rows)
    if len(foreign):
        raise DataError(f"{path}: {len(foreign):,} of its images are not in this split; run 'dvc repro pairs'")
    return pairs


def count_pairs(pairs: pd.DataFrame, malignant: Bools) -> dict[str, int | float]:
    """Return what a reader checks first: how many pairs, of which kinds, over how many images and views.

    Args:
        pairs: a pair index.
        malignant: whether each row of the release is melanoma, `(N,)`.
    """
    left, right = malignant[pairs["left"]], malignant[pairs["right"]]
    views = np.unique(np.concatenate([pairs[["left", "left_view"]], pairs[["right", "right_view"]]]), axis=0)
    return {
        "pairs": len(pairs),
        "same_melanoma": int((left & right).sum()),
        "same_benign": int((~left & ~right).sum()),
        "different": int((left != right).sum()),
        "images": len(np.unique(views[:, 0])),
        "views": len(views),
        "oversampled_views": int((views[:, 1] > 0).sum()),
    }
