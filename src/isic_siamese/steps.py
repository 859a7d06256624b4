"""Cut the pair index into steps of the optimizer, each naming its distinct views once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The pairs of one block, and the views among which they stand.

    Attributes:
        rows: the image of each view, int64 `(V,)`; in host memory, the rest on the device.
        n_plain: how many of the views, which come first, are images as they are; the others are extra copies.
        malignant: whether it shows melanoma, bool `(V,)`.
        left: the view on the left of each pair, an index into `rows`, int64 `(P,)`.
        right: likewise.
        same: whether both are of one class, bool `(P,)`.
    """

    rows: Tensor
    n_plain: int
    malignant: Tensor
    left: Tensor
    right: Tensor
    same: Tensor


def cut_steps(pairs: pd.DataFrame, malignant: npt.NDArray[np.bool_], device: torch.device) -> list[Step]:
    """Make a step of each block of `pairs`, so that the encoder sees each distinct view of a step once.

    With the default block of 1,024 pairs among 64 views that is 64 forward passes instead of 2,048. Right for any pair
    index; that few views share the pairs of a block only makes it fast.
    """
    labels = torch.from_numpy(malignant)
    steps = []
    for _, block in pairs.groupby("block"):
        part = torch.tensor(block.to_numpy(np.int64))
        _, left, right, left_view, right_view, same = part.unbind(1)
        ends = torch.stack([torch.cat([left_view, right_view]), torch.cat([left, right])], dim=1)
        views, inverse = torch.unique(ends, dim=0, return_inverse=True)  # sorted by view, so that copies come last
        rows = views[:, 1].contiguous()
        fields = (labels[rows], inverse[: len(part)], inverse[len(part) :], same.bool())
        n_plain = int((views[:, 0] == 0).sum())
        steps.append(Step(rows, n_plain, *(field.contiguous().to(device) for field in fields)))
    return steps
