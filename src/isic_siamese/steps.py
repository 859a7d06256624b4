"""Cut the pair index into steps of the optimizer, each naming its distinct views once."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from isic_siamese.arrays import Bools


@dataclass(frozen=True)
class Step:
    """The pairs of one block, and the views among which they stand.

    Attributes:
        rows: the image of each view, int64 `(V,)`; in host memory, the rest on the device.
        n_plain: how many of the views, which come first, are images as they are; the others are extra copies.
        malignant: whether it shows melanoma, bool `(V,)`.
        same: whether two views are of one class, where they are a pair, bool `(V, V)`, the left one's row first.
        weights: of each pair, its share of the step's pairs, float32 `(V, V)`; 0 where two views are no pair.
    """

    rows: Tensor
    n_plain: int
    malignant: Tensor
    same: Tensor
    weights: Tensor


def cut_steps(pairs: pd.DataFrame, malignant: Bools, device: torch.device) -> list[Step]:
    """Make a step of each block of `pairs`, so that the encoder sees each distinct view of a step once.

    With the default block of 1,024 pairs among 64 views that is 64 forward passes instead of 2,048, and one product of
    matrices for all distances. Right for any pair index; that few views share the pairs of a block only makes it fast.
    """
    labels = torch.from_numpy(malignant)
    steps = []
    for _, block in pairs.groupby("block"):
        part = torch.tensor(block.to_numpy(np.int64))
        _, left, right, left_view, right_view, same = part.unbind(1)
        ends = torch.stack([torch.cat([left_view, right_view]), torch.cat([left, right])], dim=1)
        views, inverse = torch.unique(ends, dim=0, return_inverse=True)  # sorted by view, so that copies come last
        rows = views[:, 1].contiguous()
        n_plain = int((views[:, 0] == 0).sum())
        at, shape = inverse.view(2, -1).unbind(), (len(rows), len(rows))
        alike = torch.zeros(shape, dtype=torch.bool).index_put(at, same.bool())
        weights = torch.zeros(shape).index_put(at, torch.tensor(1 / len(part)), accumulate=True)
        steps.append(Step(rows, n_plain, *(field.to(device) for field in (labels[rows], alike, weights))))
    return steps
