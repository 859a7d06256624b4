"""Random flips, rotations, zooms and colour changes, each image its own, in whole tensors on any device.

Nothing here leaves a trace that a network could take for melanoma. Flips and quarter turns only move pixels; colour
changes are as likely up as down, and rounded to whole levels, as every image is. What has to make pixels anew (turns by
any angle, zooms, shifts) mirrors the image at its edge, so there are no black corners; it blurs a little all the same,
and is therefore refused where only the oversampled copies, which are mostly melanoma, would be blurred.
"""

import math
from functools import cache
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from isic_siamese.constants import constant
from isic_siamese.devices import to_device
from isic_siamese.params import Section

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's rgb_to_grayscale
N_DRAWS = 10  # uniform numbers an image takes

Strength = Annotated[float, Field(ge=0, lt=1)]


class AugmentParams(Section):
    """Section `augment`."""

    apply_to: Literal["oversampled", "all"]
    flip: Annotated[float, Field(ge=0, le=1)]
    rotate: Literal["none", "quarter", "any"]
    scale: Strength
    translate: Strength
    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue: Annotated[float, Field(ge=0, le=0.5)]

    @property
    def resamples(self) -> bool:
        """Whether pixels are made anew rather than moved."""
        return self.rotate == "any" or self.scale > 0 or self.translate > 0

    @model_validator(mode="after")
    def _leave_no_trace(self) -> Self:
        if self.apply_to == "oversampled" and self.resamples:
            raise ValueError(
                "rotate: any, scale and translate blur an image a little, which would tell the oversampled copies from "
                "the others; with apply_to: oversampled use rotate: quarter, scale: 0 and translate: 0"
            )
        return self


def augment(images: Tensor, draws: Tensor, params: AugmentParams) -> Tensor:
    """Return each image turned, mirrored, moved and recoloured as its draws say.

    Args:
        images: uint8 RGB `(N, S, S, 3)`.
        draws: uniform in [0, 1), float32 `(N, N_DRAWS)`, in host memory.
        params: how likely and how strong.
    """
    # What is small is worked out on the host, and sent at once: a GPU takes as long to start on it as on all pixels.
    plan = [_symmetry(draws[:, :2], params), _colours(draws[:, 2:6], params)]
    if params.resamples:
        plan.append(_motion(draws[:, 6:], params))
    n_columns = [part.shape[1] for part in plan]
    symmetry, colours, *motion = torch.split(to_device(torch.cat(plan, dim=1), images.device), n_columns, dim=1)
    turned = _turn(images, symmetry.squeeze(1).long())
    return _recolour(_move(turned, *motion) if motion else turned, colours)


def _symmetry(draws: Tensor, params: AugmentParams) -> Tensor:
    """Return which of the eight symmetries of the square an image is turned by, a number of `_sources`, `(N, 1)`."""
    quarter = (draws[:, :1] * 4).floor() * (params.rotate == "quarter")
    return quarter + 4 * (draws[:, 1:] < params.flip)


def _turn(images: Tensor, symmetry: Tensor) -> Tensor:
    """Turn each image by the symmetry of that number, `(N,)`."""
    n, side = images.shape[:2]
    first = torch.arange(n, dtype=torch.int32, device=images.device)[:, None] * side**2
    # Whole pixels in one pass, by numbers of 32 bits: on a CPU a quarter of the time of numbers of 64, or of flips.
    pixels = (_sources(side, images.device)[symmetry] + first).flatten()
    return images.reshape(-1, 3).index_select(0, pixels).view(images.shape)


@constant
def _sources(side: int, device: torch.device) -> Tensor:
    """Return where each pixel comes from, int32 `(8, side^2)`: four quarter turns, and their mirror images."""
    pixels = torch.arange(side**2, dtype=torch.int32, device=device).view(side, side)
    turns = [pixels.rot90(quarter) for quarter in range(4)]
    return torch.stack([*turns, *(turned.flip(1) for turned in turns)]).flatten(1)


def _motion(draws: Tensor, params: AugmentParams) -> Tensor:
    """Return the matrices `(N, 6)` by which `_move` turns, zooms and shifts."""
    angle = draws[:, 0] * 2 * math.pi if params.rotate == "any" else torch.zeros_like(draws[:, 0])
    side = torch.exp((2 * draws[:, 1] - 1) * params.scale)  # of the part that is shown
    shift = (2 * draws[:, 2:] - 1) * 2 * params.translate  # the whole side is 2
    cos, sin = side * angle.cos(), side * angle.sin()
    return torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1)


def _move(images: Tensor, motion: Tensor) -> Tensor:
    """Turn by any angle, zoom and shift, mirrored at the edge; return float32 `(N, S, S, 3)`."""
    pixels = images.permute(0, 3, 1, 2).float()
    grid = affine_grid(motion.view(-1, 2, 3), list(pixels.shape), align_corners=False)
    moved = grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def _colours(draws: Tensor, params: AugmentParams) -> Tensor:
    """Return `(N, 12)`: the matrix by which an image's colours are multiplied, and what of its mean colour is added."""
    strength = torch.tensor([params.brightness, params.contrast, params.saturation, params.hue * 2 * math.pi])
    spread = (2 * draws - 1) * strength
    brightness, contrast, saturation = torch.exp(spread[:, :3]).unbind(1)
    chroma = _chroma_matrix(saturation, spread[:, 3])
    matrix = (brightness * contrast).view(-1, 1, 1) * chroma
    of_mean = (brightness * (1 - contrast))[:, None] * torch.tensor(LUMA)
    return torch.cat([matrix.transpose(1, 2).flatten(1), of_mean], dim=1)


def _chroma_matrix(saturation: Tensor, angle: Tensor) -> Tensor:
    """Return `(N, 3, 3)` that stretch colours from grey and turn them about the grey axis; greys stay as they are."""
    to_yiq, from_yiq = _yiq()
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return from_yiq @ turn @ to_yiq


@cache
def _yiq() -> tuple[Tensor, Tensor]:
    """Return the matrix from RGB to YIQ, and its inverse."""
    to_yiq = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    return to_yiq, torch.linalg.inv(to_yiq)


def _recolour(images: Tensor, colours: Tensor) -> Tensor:
    """Scale brightness, stretch contrast about the image's mean grey, and turn colours, as `_colours` has it; round."""
    pixels = images.flatten(1, 2).float()
    offset = (pixels.mean(dim=1) * colours[:, 9:]).sum(dim=1).view(-1, 1, 1)
    recoloured = torch.baddbmm(offset, pixels, colours[:, :9].view(-1, 3, 3))
    return recoloured.round_().clamp_(0, 255).to(torch.uint8).view(images.shape)
