"""Concentric pooling: what a feature map holds in the middle of the image, halfway out and at its edge.

A dermoscopic image has its lesion in the middle and skin around it. One mean over the whole map mixes the two; means
over rings keep them apart, and stay the same however the lesion is turned. The standard deviations say how mottled
each ring is.
"""

from functools import cache

import torch
from torch import Tensor

RADII = (0.0, 0.55, 1.1)  # of the rings, in half sides of the image; its corners lie at 1.41
STATISTICS = 2 * len(RADII) + 1  # of a channel: mean and deviation of each ring, and the largest value of all
VARIANCE_FLOOR = 1e-6  # under which the gradient of a square root runs off


def concentric_pooling(maps: Tensor) -> Tensor:
    """Return `(N, 7 * C)`: the mean of each of 3 rings, its standard deviation, then the maximum, of each channel.

    Args:
        maps: feature maps, float32 or wider, `(N, C, S, S)`; a variance needs the digits.
    """
    shares = _ring_shares(maps.shape[-1], maps.device).to(maps.dtype)
    cells = maps.permute(0, 2, 3, 1).flatten(1, 2)  # a view, of channels-last maps
    means = shares @ cells
    variances = (shares @ cells.square() - means.square()).clamp_min(VARIANCE_FLOOR)
    return torch.cat([means, variances.sqrt(), cells.amax(dim=1, keepdim=True)], dim=1).flatten(1)


@cache
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _ring_shares(side: int, device: torch.device) -> Tensor:
    """Return the share of each cell in each ring, `(3, side * side)`, rows that sum to 1.

    A cell belongs to the two rings between whose radii it lies, in proportion; beyond the last, to the last. On a map
    so small that a ring has no cell, the ring is what is nearest to it.
    """
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    radius = torch.hypot(axis[:, None], axis[None, :]).flatten().clamp(max=RADII[-1])
    distance = (radius[:, None] - torch.tensor(RADII)).abs()
    weights = (1 - distance / RADII[1]).clamp_min(0)
    nearest = (distance == distance.amin(dim=0)).float()
    weights = torch.where(weights.sum(dim=0) > 0, weights, nearest)
    return (weights / weights.sum(dim=0)).T.contiguous().to(device)
