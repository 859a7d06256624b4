import pytest
import torch
from torchvision.transforms.v2 import functional as oracle

from isic_siamese.augment import N_DRAWS, AugmentParams, augment

STILL = AugmentParams(apply_to="oversampled", flip=0, rotate=False, brightness=0, contrast=0, saturation=0, hue=0)


def photographs(n: int = 8, px: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(40, 200, (n, px, px, 3), dtype=torch.uint8, generator=generator)


def draws(*, n: int = 8, **fixed: float) -> torch.Tensor:
    table = torch.full((n, N_DRAWS), 0.5)
    for name, value in fixed.items():
        table[:, ("quarter", "mirror", "brightness", "contrast", "saturation", "hue").index(name)] = value
    return table


def test_without_any_strength_an_image_stays_as_it_is() -> None:
    images = photographs()
    assert torch.equal(augment(images, torch.rand(8, N_DRAWS), STILL), images)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turns_and_mirror_images_are_exact(quarter: int, mirrored: bool) -> None:
    images = photographs()
    params = STILL.model_copy(update={"rotate": True, "flip": 0.5})
    got = augment(images, draws(quarter=quarter / 4, mirror=0.1 if mirrored else 0.9), params)
    expected = torch.rot90(images, quarter, (1, 2))
    assert torch.equal(got, expected.flip(2) if mirrored else expected)


@pytest.mark.parametrize(("name", "method"), [("brightness", "adjust_brightness"), ("saturation", "adjust_saturation")])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.99])
def test_brightness_and_saturation_agree_with_torchvision(name: str, method: str, draw: float) -> None:
    images, strength = photographs(), 0.2
    got = augment(images, draws(n=8, **{name: draw}), STILL.model_copy(update={name: strength}))
    factor = torch.exp(torch.tensor((2 * draw - 1) * strength)).item()
    expected = getattr(oracle, method)(images.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
    assert (got.int() - expected.int()).abs().max() <= 1  # torchvision rounds down


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.99])
def test_contrast_agrees_with_torchvision(draw: float) -> None:
    images = photographs()
    got = augment(images, draws(contrast=draw), STILL.model_copy(update={"contrast": 0.2}))
    factor = torch.exp(torch.tensor((2 * draw - 1) * 0.2)).item()
    expected = oracle.adjust_contrast(images.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
    assert (got.int() - expected.int()).abs().max() <= 1


def test_hue_turns_colours_and_leaves_greys() -> None:
    params = STILL.model_copy(update={"hue": 0.5})
    grey = torch.full((1, 4, 4, 3), 130, dtype=torch.uint8)
    assert torch.equal(augment(grey, draws(n=1, hue=0.7), params), grey)
    red = torch.tensor([160, 100, 100], dtype=torch.uint8).expand(1, 4, 4, 3).contiguous()
    turned = augment(red, draws(n=1, hue=0.5 + 1 / 6), params)[0, 0, 0]  # a sixth of a turn
    assert turned.argmax() != 0
    there_and_back = augment(augment(red, draws(n=1, hue=0.7), params), draws(n=1, hue=0.3), params)
    assert (there_and_back.int() - red.int()).abs().max() <= 2


def test_augmentation_leaves_no_trace_in_the_mean_colour_or_the_histogram() -> None:
    images = photographs(512)
    params = AugmentParams(
        apply_to="all", flip=0.5, rotate=True, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02
    )
    generator = torch.Generator().manual_seed(1)
    augmented = augment(images, torch.rand(512, N_DRAWS, generator=generator), params)
    shift = augmented.float().mean((0, 1, 2)) - images.float().mean((0, 1, 2))
    assert shift.abs().max() < 1.5  # levels of 255
    assert (augmented == 0).float().mean() < 1e-3  # no black corners


def test_each_image_is_changed_by_its_own_draws() -> None:
    image = photographs(1).expand(64, -1, -1, -1)
    params = STILL.model_copy(update={"rotate": True, "flip": 0.5})
    augmented = augment(image, torch.rand(64, N_DRAWS, generator=torch.Generator().manual_seed(0)), params)
    assert len(torch.unique(augmented.flatten(1), dim=0)) == 8  # all symmetries of the square
