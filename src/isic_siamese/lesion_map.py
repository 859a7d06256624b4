"""Where the lesion is in a dermoscopic image, found without training: what differs from the skin at the image's edge.

Colours are compared in CIELAB, and the threshold is that of Ridler and Calvard, "Picture thresholding using an
iterative selection method", IEEE Trans. Syst. Man Cybern. 8 (1978), doi 10.1109/TSMC.1978.4310039. Of the parts beyond
it the one nearest to the middle is the lesion. All in whole tensors, on any device.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d, pad

from isic_siamese.constants import constant

SIDE = 32  # cells of a map along each side
SKIN = 0.6  # of the cells at the edge: the brightest, because the corners may be dark
CHROMA = 0.5  # weight of another colour beside that of darkness, both in units of CIELAB
ROUNDS = 10  # of the threshold's iteration, which stands still after a few
FIELD, MIDDLE = 0.97, 0.55  # radius of what is looked at, and of where lesions lie, in half sides of the image
LEAST, FALLBACK = 0.005, 0.5  # area under which nothing was found, as a share; radius of the disc that is then taken
SOFTNESS = 2.0  # standard deviation of the Gaussian that makes the lesion's edge soft, cells

# From linear RGB (IEC 61966-2-1) to XYZ in units of the D65 white, and from their cube roots to CIELAB.
TO_XYZ = ((0.43395, 0.37622, 0.18983), (0.21267, 0.71515, 0.07218), (0.01776, 0.10948, 0.87277))
TO_LAB, OFFSET = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0)), ((16.0, 0.0, 0.0),)


@torch.no_grad()
def lesion_map(images: Tensor) -> Tensor:
    """Return how much of each cell is lesion, float32 `(N, SIDE, SIDE)` in [0, 1], soft at the edge.

    Args:
        images: RGB `(N, H, W, 3)` in [0, 255], of any dtype. Where nothing differs from the skin, or hardly anything,
            a disc in the middle is the lesion.
    """
    with torch.autocast(images.device.type, enabled=False):
        cells = adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), SIDE).permute(0, 2, 3, 1)
        radius, blur = _radius(images.device), _gaussian(images.device)
        contrast = _contrast(to_lab(cells))
        threshold = _threshold(contrast.flatten(1)[:, _inside(images.device)])
        found = _hole_free(_middle_part(((contrast > threshold) & (radius < FIELD)).float()))
        tiny = found.mean(dim=(1, 2), keepdim=True) < LEAST
        return blur @ torch.where(tiny, (radius < FALLBACK).float(), found) @ blur.T


def to_lab(colours: Tensor) -> Tensor:
    """Return sRGB `(..., 3)` in [0, 255] as CIELAB of a D65 white."""
    share = colours / 255
    linear = torch.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = linear @ _matrix(TO_XYZ, colours.device).T
    roots = torch.where(xyz > 216 / 24389, xyz.clamp_min(1e-6) ** (1 / 3), (24389 / 27 * xyz + 16) / 116)
    return roots @ _matrix(TO_LAB, colours.device).T - _matrix(OFFSET, colours.device)


def _contrast(lab: Tensor) -> Tensor:
    """Return how far the colours of cells `(N, SIDE, SIDE, 3)` are from the skin's, `(N, SIDE, SIDE)`."""
    edge = torch.cat([lab[:, 0], lab[:, -1], lab[:, 1:-1, 0], lab[:, 1:-1, -1]], dim=1)
    n_skin = int(SKIN * edge.shape[1])
    brightest = edge[..., 0].argsort(dim=1, descending=True, stable=True)[:, :n_skin, None].expand(-1, -1, 3)
    skin = edge.gather(1, brightest).sort(dim=1)[0][:, n_skin // 2]
    darkness, *chroma = (lab - skin[:, None, None]).unbind(-1)
    return (-darkness).clamp_min(0) + CHROMA * torch.hypot(*chroma)


def _threshold(values: Tensor) -> Tensor:
    """Return the value `(N, 1, 1)` half way between the means of what is above it and of what is not, of `(N, C)`."""
    threshold = values.mean(dim=1, keepdim=True)
    for _ in range(ROUNDS):
        above = (values > threshold).float()
        means = [(values * part).sum(1, True) / part.sum(1, True).clamp_min(1) for part in (above, 1 - above)]
        threshold = (means[0] + means[1]) / 2
    return threshold[..., None]


def _middle_part(found: Tensor) -> Tensor:
    """Return the connected part of `found` `(N, SIDE, SIDE)` that weighs most near the middle."""
    nearness = torch.exp(-((_radius(found.device) / MIDDLE) ** 2))
    around = avg_pool2d(found * nearness, 5, 1, 2) * nearness * found
    seed = found * (around >= around.amax(dim=(1, 2), keepdim=True))
    return _spread(seed, found)


def _hole_free(part: Tensor) -> Tensor:
    """Return `part` `(N, SIDE, SIDE)` with the holes in it filled: what cannot be reached from the image's edge."""
    edge = 1 - pad(torch.ones_like(part[:, 1:-1, 1:-1]), (1, 1, 1, 1))
    return 1 - _spread(edge * (1 - part), 1 - part)


def _spread(seed: Tensor, within: Tensor) -> Tensor:
    """Return what can be reached from `seed` inside `within`, both `(N, SIDE, SIDE)`, in `SIDE` steps."""
    for _ in range(SIDE):
        reached = _dilate(seed) * within
        # All is reached. On CUDA to ask would make the host wait, and a graph that is exported cannot ask.
        if not (seed.is_cuda or torch.compiler.is_compiling()) and torch.equal(reached, seed):
            break
        seed = reached
    return seed


def _dilate(cells: Tensor) -> Tensor:
    """Return the cells, 0 or 1, `(N, SIDE, SIDE)`, with the eight around each; by what the device is fast at."""
    if cells.is_cuda:  # where products keep the host so busy that a lesion map takes three times as long
        return max_pool2d(cells, 3, stride=1, padding=1)
    beside = _neighbours(cells.device).expand_as(cells)
    return (beside @ cells @ beside).clamp_max(1)  # in a third of the time of max_pool2d


def _radii() -> list[float]:
    """Return how far each cell is from the middle, row by row, in half sides of the image."""
    middles = [(cell + 0.5) / SIDE * 2 - 1 for cell in range(SIDE)]
    return [math.hypot(y, x) for y in middles for x in middles]


@constant
def _radius(device: torch.device) -> Tensor:
    return torch.tensor(_radii(), device=device).view(SIDE, SIDE)


@constant
def _inside(device: torch.device) -> Tensor:
    """Return the numbers of the cells that are looked at: a mask would make the host wait for how many there are."""
    return torch.tensor([cell for cell, radius in enumerate(_radii()) if radius < FIELD], device=device)


@constant
def _neighbours(device: torch.device) -> Tensor:
    """Return the matrix `(SIDE, SIDE)` that adds to each cell of a column the ones beside it."""
    cell = torch.arange(SIDE, device=device)
    return ((cell[:, None] - cell[None, :]).abs() <= 1).float()


@constant
def _gaussian(device: torch.device) -> Tensor:
    """Return the matrix `(SIDE, SIDE)` that blurs a column; each row sums to 1."""
    cell = torch.arange(SIDE)
    weights = torch.exp(-((cell[:, None] - cell[None, :]) ** 2) / (2 * SOFTNESS**2))
    return (weights / weights.sum(dim=1, keepdim=True)).to(device)


@constant
def _matrix(rows: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device)
