import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from isic_siamese.lesions import MOLE_PATTERNS, Floats, Signs, Skin, draw_jpeg, draw_lesion, draw_skin

PLAIN = Skin(
    melanin=0.1,
    blood=0.15,
    mottling=0.2,
    hairs=0,
    hair_darkness=0.5,
    pattern="homogeneous",
    mole_size=1,
    mole_darkness=0.9,
)
MILD = Signs(asymmetry=0.1, border=0.1, colour=0.1, diameter=0.1)


def strong(sign: str) -> Signs:
    return Signs(**{**vars(MILD), sign: 0.95})


def optical_density(pixels: np.ndarray) -> Floats:
    """Return the density `(H, W, 3)` above that of the skin about the lesion."""
    density = -np.log((pixels + 1.0) / 256)
    skin: Floats = density - np.median(density, axis=(0, 1))
    return skin


def middle(pixels: np.ndarray) -> np.ndarray:
    """Return the middle square."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def lesion_mask(pixels: np.ndarray) -> np.ndarray:
    """Return which pixels of the middle square are clearly darker than the skin and connected, bool `(H, H)`."""
    parts, n = label(middle(optical_density(pixels))[..., 1] > 0.35)
    largest = 1 + np.argmax([(parts == part).sum() for part in range(1, n + 1)])
    mask: np.ndarray = parts == largest
    return mask


def area(pixels: np.ndarray) -> float:
    return float(lesion_mask(pixels).mean())


def lopsidedness(pixels: np.ndarray) -> float:
    """Return the share of the pigment that a half turn about the middle of the lesion does not lay on pigment."""
    mask = lesion_mask(pixels)
    pigment = middle(optical_density(pixels))[..., 1] * mask
    y, x = (round(float(c.mean())) for c in np.nonzero(mask))
    reach = min(y, x, mask.shape[0] - 1 - y, mask.shape[1] - 1 - x)
    crop = pigment[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return float(np.abs(crop - crop[::-1, ::-1]).sum() / (2 * crop.sum()))


def raggedness(pixels: np.ndarray) -> float:
    """Return the length of the border relative to that of a square of the same area."""
    mask = lesion_mask(pixels)
    edges = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
    return float(edges / (4 * np.sqrt(mask.sum())))


def variegation(pixels: np.ndarray) -> float:
    """Return how much the hue, red against blue, varies where there is pigment."""
    density = optical_density(pixels)
    inside = density.sum(-1) > 0.9
    return float((density[inside][:, 0] - 0.4 * density[inside][:, 2]).std())


@pytest.mark.parametrize(
    ("sign", "measure"),
    [("asymmetry", lopsidedness), ("border", raggedness), ("colour", variegation), ("diameter", area)],
)
def test_each_sign_of_the_abcd_rule_shows_in_the_picture(sign: str, measure: Callable[[np.ndarray], float]) -> None:
    def mean(signs: Signs) -> float:
        return float(np.mean([measure(draw_lesion(PLAIN, signs, 128, np.random.SeedSequence(s))) for s in range(12)]))

    assert mean(strong(sign)) > 1.2 * mean(MILD)


def test_the_shorter_side_is_as_asked_and_the_shape_varies() -> None:
    shapes = {draw_lesion(PLAIN, MILD, 64, np.random.SeedSequence(s)).shape for s in range(40)}
    assert {min(shape[:2]) for shape in shapes} == {64}
    assert {(64, 96, 3), (64, 85, 3), (96, 64, 3)} <= shapes


def test_a_picture_is_the_same_each_time_and_another_for_another_seed() -> None:
    skin = draw_skin(np.random.default_rng(5))
    first, again, other = (draw_lesion(skin, MILD, 64, np.random.SeedSequence(s)) for s in (1, 1, 9))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_picture_looks_alike_at_any_number_of_pixels() -> None:
    # A factor of two only: the noise has a whole number of cells, which rounding changes at odd sizes.
    large, small = (draw_lesion(PLAIN, MILD, px, np.random.SeedSequence(3)) for px in (512, 256))
    halved = np.asarray(Image.fromarray(large).reduce(2), np.float64)
    assert np.abs(halved - small).mean() < 4


@pytest.mark.parametrize("pattern", [*MOLE_PATTERNS, "keratosis"])
def test_each_pattern_has_a_look_of_its_own(pattern: str) -> None:
    signs = Signs(asymmetry=0, border=0, colour=0, diameter=1)
    looks = {
        name: draw_lesion(Skin(**{**vars(PLAIN), "pattern": name}), signs, 128, np.random.SeedSequence(2))
        for name in {pattern, "homogeneous" if pattern != "homogeneous" else "globular"}
    }
    one, other = (middle(look)[48:80, 48:80].astype(float) for look in looks.values())
    assert np.abs(one - other).mean() > 4


def test_a_jpeg_shows_what_was_drawn() -> None:
    seed = np.random.SeedSequence(4)
    jpeg = Image.open(io.BytesIO(draw_jpeg(PLAIN, MILD, 64, seed, 95)))
    assert (jpeg.format, jpeg.mode) == ("JPEG", "RGB")
    assert np.abs(np.asarray(jpeg, np.float64) - draw_lesion(PLAIN, MILD, 64, seed)).mean() < 3
