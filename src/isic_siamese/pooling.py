"""Region pooling: what a feature map holds in the middle of the image and at its edge, and in the lesion and around it.

A dermoscopic image has its lesion in the middle and skin around it. One mean over the whole map mixes the two; means
over regions keep them apart, and stay the same however the lesion is turned. The standard deviations say how mottled
each region is. Three regions are rings about the centre, the same in each image; three follow the lesion that is found.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from isic_siamese.constants import constant
from isic_siamese.lesion_map import lesion_map

RADII = (0.0, 0.55, 1.1)  # of the rings, in half sides of the image; its corners lie at 1.41
N_REGIONS = len(RADII) + 3
STATISTICS = 2 * N_REGIONS + 1  # of a channel: mean and deviation of each region, and the largest value of all
VARIANCE_FLOOR = 1e-6  # under which the gradient of a square root runs off
FAINT = 1e-5  # share of each cell in each of the lesion's regions, so that none is empty


def lesion_regions(images: Tensor) -> Tensor:
    """Return how much each cell of an image belongs to the lesion's inside, its edge and the skin, `(N, 3, S, S)`.

    With b of a cell lesion (`lesion_map`) these are b^2, 2 b (1 - b) and (1 - b)^2, which sum to 1.

    Args:
        images: RGB `(N, H, W, 3)` in [0, 255].
    """
    lesion = lesion_map(images)
    return torch.stack([lesion.square(), 2 * lesion * (1 - lesion), (1 - lesion).square()], dim=1)


def pool_regions(maps: Tensor, regions: Tensor) -> Tensor:
    """Return `(N, 13 * C)`: the mean of each region, its standard deviation, then the maximum, of each channel.

    The regions are three rings about the centre, the middle first, then those of the lesion.

    Args:
        maps: feature maps, float32 or wider, `(N, C, H, W)`, H = W; a variance needs the digits.
        regions: of the lesion, as `lesion_regions` returns them.
    """
    side = maps.shape[-1]
    of_lesion = adaptive_avg_pool2d(regions, side).flatten(2) + FAINT
    of_lesion = of_lesion / of_lesion.sum(dim=2, keepdim=True)
    rings = _ring_shares(side, maps.device).expand(maps.shape[0], -1, -1)
    shares = torch.cat([rings, of_lesion], dim=1).to(maps.dtype)
    grid = maps.permute(0, 2, 3, 1)
    cells = grid.flatten(1, 2)  # a view, of channels-last maps
    means = shares @ cells
    variances = (shares @ cells.square() - means.square()).clamp_min(VARIANCE_FLOOR)
    # Of rows, then of the row: at once, along memory that is not contiguous, a CPU takes 16 times as long.
    largest = grid.amax(dim=1).amax(dim=1, keepdim=True)
    return torch.cat([means, variances.sqrt(), largest], dim=1).flatten(1)


@constant
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
