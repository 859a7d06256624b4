"""Random flips, rotations and colour changes, each image its own, in whole tensors on any device.

Nothing here leaves a trace that a network could take for melanoma: rotations go by quarter turns, which only move
pixels, so there are no black corners and no blur; colour changes are as likely up as down; and the result is rounded to
whole levels, as every image that was not augmented is.
"""

import math
from functools import cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from isic_siamese.params import Section

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision's rgb_to_grayscale
N_DRAWS = 6  # uniform numbers an image takes

Strength = Annotated[float, Field(ge=0, lt=1)]


class AugmentParams(Section):
    """Section `augment`."""

    apply_to: Literal["oversampled", "all"]
    flip: Annotated[float, Field(ge=0, le=1)]
    rotate: bool
    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue: Annotated[float, Field(ge=0, le=0.5)]


def augment(images: Tensor, draws: Tensor, params: AugmentParams) -> Tensor:
    """Return each image turned, mirrored and recoloured as its draws say.

    Args:
        images: uint8 RGB `(N, S, S, 3)`.
        draws: uniform in [0, 1), float32 `(N, N_DRAWS)`, on the same device.
        params: how likely and how strong.
    """
    turned = _turn(images, draws[:, :2], params)
    spread = 2 * draws - 1
    brightness = torch.exp(spread[:, 2] * params.brightness)
    contrast = torch.exp(spread[:, 3] * params.contrast)
    saturation = torch.exp(spread[:, 4] * params.saturation)
    angle = spread[:, 5] * params.hue * 2 * math.pi
    return _recolour(turned, brightness, contrast, _chroma_matrix(saturation, angle))


def _turn(images: Tensor, draws: Tensor, params: AugmentParams) -> Tensor:
    """Apply one of the eight symmetries of the square: transpose, then mirror along either axis."""
    quarter = (draws[:, 0] * 4).long() if params.rotate else torch.zeros_like(draws[:, 0], dtype=torch.long)
    mirrored = draws[:, 1] < params.flip
    transpose = quarter % 2 == 1
    upside_down = (quarter == 1) | (quarter == 2)
    left_right = (quarter >= 2) ^ mirrored
    for chosen, moved in ((transpose, (1, 2)), (upside_down, (1,)), (left_right, (2,))):
        other = images.transpose(*moved) if len(moved) == 2 else images.flip(moved)
        images = torch.where(chosen.view(-1, 1, 1, 1), other, images)
    return images


def _chroma_matrix(saturation: Tensor, angle: Tensor) -> Tensor:
    """Return `(N, 3, 3)` that stretch colours from grey and turn them about the grey axis; greys stay as they are."""
    to_yiq, from_yiq = _constants(angle.device)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return from_yiq @ turn @ to_yiq


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrix from RGB to YIQ and its inverse, made once: making them makes the host wait for the device."""
    to_yiq = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    return to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)


def _recolour(images: Tensor, brightness: Tensor, contrast: Tensor, chroma: Tensor) -> Tensor:
    """Scale brightness, stretch contrast about the image's mean grey, then apply `chroma`; round to uint8."""
    pixels = images.flatten(1, 2).float()
    grey = (pixels.mean(dim=1) * _constants(images.device)[0][0]).sum(dim=1)
    matrix = (brightness * contrast).view(-1, 1, 1) * chroma
    offset = (brightness * (1 - contrast) * grey).view(-1, 1, 1)
    recoloured = torch.baddbmm(offset, pixels, matrix.transpose(1, 2))
    return recoloured.round_().clamp_(0, 255).to(torch.uint8).view_as(images)
