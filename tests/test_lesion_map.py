import numpy as np
import pytest
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter, label
from torch import Tensor

from isic_siamese.lesion_map import FIELD, SIDE, SOFTNESS, _hole_free, _middle_part, _threshold, lesion_map, to_lab

SKIN, BROWN, BLACK = (225, 180, 160), (120, 70, 50), (0, 0, 0)
PX = 128


def disc(x: float, y: float, radius: float) -> Tensor:
    """Where a disc is, `(PX, PX)`; in half sides from the centre of the image."""
    axis = (torch.arange(PX) + 0.5) / PX * 2 - 1
    return torch.hypot(axis[None] - x, axis[:, None] - y) < radius


def picture(*parts: tuple[Tensor, tuple[int, int, int]], skin: tuple[int, int, int] = SKIN) -> Tensor:
    """An image `(1, PX, PX, 3)` of skin with parts of other colours on it."""
    image = torch.tensor(skin, dtype=torch.uint8).expand(PX, PX, 3).clone()
    for where, colour in parts:
        image[where] = torch.tensor(colour, dtype=torch.uint8)
    return image[None]


def overlap(found: Tensor, wanted: Tensor) -> float:
    """Intersection over union of a map, cut at a half, and what is wanted `(PX, PX)`."""
    one = found[0].repeat_interleave(PX // SIDE, 0).repeat_interleave(PX // SIDE, 1) > 0.5
    return float((one & wanted).sum() / (one | wanted).sum())


@pytest.mark.parametrize(("x", "y", "radius"), [(0, 0, 0.5), (0.3, -0.2, 0.4), (-0.3, 0.3, 0.45)])
def test_a_lesion_is_found_where_it_is_not_the_dark_corners_nor_a_mark_at_the_edge(
    x: float, y: float, radius: float
) -> None:
    corners, mark = ~disc(0, 0, 1.0), disc(0.85, 0.3, 0.12)
    lesion = disc(x, y, radius)
    found = lesion_map(picture((lesion, BROWN), (mark, BLACK), (corners, BLACK)))
    assert overlap(found, lesion) > 0.8 and found.min() >= 0 and found.max() <= 1 + 1e-6
    assert found[0, 20, 29] < 0.1  # the mark


def test_a_speck_in_the_middle_is_not_taken_for_the_lesion() -> None:
    lesion = disc(0.4, 0, 0.3)
    assert overlap(lesion_map(picture((lesion, BROWN), (disc(-0.03, 0.03, 0.03), BLACK))), lesion) > 0.8


def test_the_threshold_lies_half_way_between_the_means_on_its_two_sides() -> None:
    for values in torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) ** 8:  # few are large
        threshold = _threshold(values[None]).squeeze()
        means = values[values > threshold].mean(), values[values <= threshold].mean()
        torch.testing.assert_close(threshold, (means[0] + means[1]) / 2)


def test_a_lesion_as_bright_as_the_skin_is_found_by_its_colour_and_one_that_is_darker_by_that() -> None:
    grey, red, dark = (150, 150, 150), (200, 132, 125), (110, 110, 110)
    lightness = to_lab(torch.tensor([grey, red]).float())[:, 0]
    assert abs(float(lightness[0] - lightness[1])) < 2
    for colour in (red, dark):
        assert overlap(lesion_map(picture((disc(0.1, 0.1, 0.4), colour), skin=grey)), disc(0.1, 0.1, 0.4)) > 0.8


def test_dark_corners_are_not_taken_for_the_skin() -> None:
    """On a third of the edge there is skin: from it alone a grey lesion on grey skin is known to be the darker one."""
    lesion, corners = disc(0.1, 0.1, 0.4), ~disc(0, 0, 1.05)
    found = lesion_map(picture((lesion, (110, 110, 110)), (corners, BLACK), skin=(150, 150, 150)))
    assert overlap(found, lesion) > 0.8


def test_the_edge_of_a_lesion_is_that_of_a_gaussian() -> None:
    cells = disc(-0.5, 0.1, 0.5)[:: PX // SIDE, :: PX // SIDE]  # it reaches the edge of the image
    lesion = cells.repeat_interleave(PX // SIDE, 0).repeat_interleave(PX // SIDE, 1)
    inside = cells.numpy() & (np.hypot(*np.meshgrid(*2 * [np.linspace(-1 + 1 / SIDE, 1 - 1 / SIDE, SIDE)])) < FIELD)
    hard, everything = (
        gaussian_filter(part.astype(float), SOFTNESS, mode="constant", truncate=16) for part in (inside, inside | True)
    )
    np.testing.assert_allclose(lesion_map(picture((lesion, BROWN)))[0], hard / everything, atol=1e-5)


def test_what_is_pale_inside_a_lesion_belongs_to_it() -> None:
    found = lesion_map(picture((disc(0, 0, 0.6), BROWN), (disc(0.05, 0, 0.25), SKIN)))
    assert overlap(found, disc(0, 0, 0.6)) > 0.85


@pytest.mark.parametrize("image", [picture(), picture((disc(0, 0, 0.05), BROWN)), picture(skin=BLACK)])
def test_where_hardly_anything_is_found_a_disc_in_the_middle_is_taken(image: Tensor) -> None:
    assert overlap(lesion_map(image), disc(0, 0, 0.5)) > 0.9


def test_a_map_turns_with_its_image() -> None:
    image = picture((disc(0.2, -0.3, 0.35), BROWN), (disc(0.45, -0.1, 0.25), (90, 60, 60)), (~disc(0, 0, 1.1), BLACK))
    found = lesion_map(image)
    for turns in range(4):
        for mirrored in (False, True):
            one, other = (part.flip(2) if mirrored else part for part in (image, found))
            turned = lesion_map(torch.rot90(one, turns, (1, 2)))
            torch.testing.assert_close(turned, torch.rot90(other, turns, (1, 2)), atol=1e-5, rtol=0)


def test_images_of_a_batch_do_not_see_one_another_and_any_side_or_precision_will_do() -> None:
    images = torch.cat(
        [picture((disc(0.2, 0.1, 0.4), BROWN)), picture((disc(-0.3, 0, 0.3), BLACK), skin=(150, 150, 150))]
    )
    together = lesion_map(images)
    torch.testing.assert_close(together, torch.cat([lesion_map(image[None]) for image in images]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lesion_map(images), together)
    for side in (1, 16, 50, 200):
        assert lesion_map(torch.zeros(2, side, side, 3, dtype=torch.uint8)).shape == (2, SIDE, SIDE)


def test_colours_are_those_of_cielab() -> None:
    # Published values of the sRGB primaries and of greys under D65, two degrees.
    known = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (0, 0, 0): (0.0, 0.0, 0.0),
        (10, 10, 10): (2.74, 0.0, 0.0),
        (50, 50, 50): (20.79, 0.0, 0.0),
        (119, 119, 119): (50.03, 0.0, 0.0),
    }
    lab = to_lab(torch.tensor(list(known)).float())
    torch.testing.assert_close(lab, torch.tensor(list(known.values())), atol=0.06, rtol=0)


def test_the_part_near_the_middle_and_its_holes_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:SIDE, :SIDE]
    n_parts, n_holes = [], []
    for _ in range(30):
        circles = [(rng.uniform(2, SIDE - 2, 2), rng.uniform(1, 6)) for _ in range(9)]
        rims = [abs(np.hypot(row - y, column - x) - radius) < 1 for (y, x), radius in circles]
        found = np.any(rims, axis=0)
        part = _middle_part(torch.from_numpy(found)[None].float())
        labels, n = label(found, np.ones((3, 3)))
        (number,) = set(labels[part[0].numpy() > 0])
        assert np.array_equal(part[0].numpy() > 0, labels == number)
        # What is outside is connected through corners, too, so a hole is closed on all eight sides.
        filled = binary_fill_holes(labels == number, np.ones((3, 3)))
        assert np.array_equal(_hole_free(part)[0].numpy() > 0, filled)
        n_parts.append(n)
        n_holes.append((filled != (labels == number)).any())
    assert np.mean(n_parts) > 2 and np.mean(n_holes) > 0.5
