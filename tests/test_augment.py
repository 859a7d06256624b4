import pytest
import torch
from torchvision.transforms.v2 import functional as oracle

from isic_siamese.augment import N_DRAWS, AugmentParams, augment
from tests.toy import RECIPE

STILL = RECIPE.model_copy(
    update={"flip": 0, "rotate": "none", "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
)
DRAWS = ("quarter", "mirror", "brightness", "contrast", "saturation", "hue", "angle", "scale", "right", "down")


def photographs(n: int = 8, px: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(40, 200, (n, px, px, 3), dtype=torch.uint8, generator=generator)


def draws(*, n: int = 8, **fixed: float) -> torch.Tensor:
    table = torch.full((n, N_DRAWS), 0.5)
    for name, value in fixed.items():
        table[:, DRAWS.index(name)] = value
    return table


def test_without_any_strength_an_image_stays_as_it_is() -> None:
    images = photographs()
    assert torch.equal(augment(images, torch.rand(8, N_DRAWS), STILL), images)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turns_and_mirror_images_are_exact(quarter: int, mirrored: bool) -> None:
    images = photographs()
    params = STILL.model_copy(update={"rotate": "quarter", "flip": 0.5})
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


def test_colours_changed_at_once_are_those_changed_one_after_another() -> None:
    images = photographs() // 2 + 50
    drawn = {"contrast": 0.9, "brightness": 0.8, "saturation": 0.0, "hue": 0.99}
    strengths = {"contrast": 0.3, "brightness": 0.3, "saturation": 0.5, "hue": 0.1}
    together = augment(images, draws(n=8, **drawn), STILL.model_copy(update=strengths))
    for name, strength in strengths.items():
        images = augment(images, draws(n=8, **{name: drawn[name]}), STILL.model_copy(update={name: strength}))
    assert (together.int() - images.int()).abs().max() <= 3  # each rounds


def test_colours_brighter_than_white_are_white() -> None:
    bright = torch.full((1, 4, 4, 3), 250, dtype=torch.uint8)
    assert (augment(bright, draws(n=1, brightness=0.99), STILL.model_copy(update={"brightness": 0.2})) == 255).all()


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
    colours = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.02}
    moves = {"flip": 0.5, "rotate": "any", "scale": 0.15, "translate": 0.05}
    params = STILL.model_copy(update=colours | moves)
    generator = torch.Generator().manual_seed(1)
    augmented = augment(images, torch.rand(512, N_DRAWS, generator=generator), params)
    shift = augmented.float().mean((0, 1, 2)) - images.float().mean((0, 1, 2))
    assert shift.abs().max() < 1.5  # levels of 255
    assert (augmented == 0).float().mean() < 1e-3  # no black corners


def test_each_image_is_changed_by_its_own_draws() -> None:
    image = photographs(1).expand(64, -1, -1, -1)
    params = STILL.model_copy(update={"rotate": "quarter", "flip": 0.5})
    augmented = augment(image, torch.rand(64, N_DRAWS, generator=torch.Generator().manual_seed(0)), params)
    assert len(torch.unique(augmented.flatten(1), dim=0)) == 8  # all symmetries of the square


def disc(px: int = 65) -> torch.Tensor:
    """A dark disc in the middle of a bright square, `(1, px, px, 3)`; its radius is a quarter of the side."""
    at = torch.arange(px) - px // 2
    inside = at.square()[:, None] + at.square()[None] <= (px / 4) ** 2
    return torch.where(inside[None, :, :, None], 50, 200).to(torch.uint8).expand(1, px, px, 3).contiguous()


def area(images: torch.Tensor) -> float:
    """The dark share of the first image."""
    return (images[0, :, :, 0] < 125).float().mean().item()


def test_any_angle_turns_without_black_corners_and_a_full_turn_changes_nothing() -> None:
    images, params = photographs(), STILL.model_copy(update={"rotate": "any"})
    assert torch.equal(augment(images, draws(angle=0.0), params), images)
    assert torch.equal(augment(images, draws(angle=0.5), params), torch.rot90(images, 2, (1, 2)))
    assert augment(disc(), draws(n=1, angle=0.125), params).min() >= 49
    assert area(augment(disc(), draws(n=1, angle=0.125), params)) == pytest.approx(area(disc()), rel=0.03)


def test_scale_shows_a_part_of_the_side_and_keeps_the_middle() -> None:
    params = STILL.model_copy(update={"scale": 0.3})
    nearer = augment(disc(), draws(n=1, scale=0.0), params)
    assert area(nearer) == pytest.approx(area(disc()) * torch.tensor(0.6).exp().item(), rel=0.05)
    assert torch.equal(augment(disc(), draws(n=1, scale=0.5), params), disc())


def test_translate_moves_by_a_part_of_the_side() -> None:
    images = disc()
    moved = augment(images, draws(n=1, right=0.0), STILL.model_copy(update={"translate": 4 / 65}))
    assert torch.equal(moved[:, :, 4:], images[:, :, :-4])


@pytest.mark.parametrize("change", [{"rotate": "any"}, {"scale": 0.1}, {"translate": 0.1}])
def test_a_blur_that_would_tell_the_oversampled_copies_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="would tell the oversampled copies"):
        AugmentParams.model_validate(STILL.model_dump() | change)
    AugmentParams.model_validate(STILL.model_dump() | change | {"apply_to": "all"})
