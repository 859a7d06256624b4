"""Draw one synthetic dermoscopy picture: skin, lesion, and all that comes between them and the camera.

Light goes through pigments, so colours come from the Beer-Lambert law: reflectance = exp(-density * absorbance).
Lengths are in units of the picture's shorter side, so that a picture looks the same at any number of pixels.
All maths is in float64 and rounded to bytes once: CPUs differ in the last bits of exp(), and no byte shows it.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]


def _rgb(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue])[:, None, None]


# Absorbance of red, green and blue light by a unit of pigment.
MELANIN = _rgb(0.50, 0.92, 1.40)
BLOOD = _rgb(0.12, 0.70, 0.58)
DEEP_MELANIN = _rgb(1.05, 0.80, 0.50)  # seen through the dermis, which scatters blue light back: blue-grey
DERMIS = _rgb(0.98, 0.90, 0.86)  # reflectance without pigment
SCAR = _rgb(0.93, 0.84, 0.82)

MOLE_PATTERNS = ("reticular", "globular", "homogeneous", "dark centre")
ASPECTS = ((1.5, 0.72), (4 / 3, 0.14), (2 / 3, 0.10), (1.0, 0.04))  # width / height, and how often


@dataclass(frozen=True)
class Skin:
    """What all pictures of a patient share: the skin, the hair, and the moles' family likeness."""

    melanin: float  # 0.05 fair to 0.6 dark
    blood: float
    mottling: float
    hairs: float  # expected number in a picture
    hair_darkness: float
    pattern: str  # one of MOLE_PATTERNS, or keratosis
    mole_size: float  # factor on the radius
    mole_darkness: float  # melanin density


@dataclass(frozen=True)
class Signs:
    """The ABCD rule of dermoscopy, each sign from 0 (as in a mole) to 1 (as in a melanoma)."""

    asymmetry: float
    border: float
    colour: float
    diameter: float


def draw_skin(rng: np.random.Generator) -> Skin:
    """Draw what the pictures of a new patient will share."""
    return Skin(
        melanin=float(np.exp(rng.normal(np.log(0.13), 0.6))),
        blood=float(np.exp(rng.normal(np.log(0.2), 0.5))),
        mottling=rng.uniform(0.2, 1.0),
        hairs=float(rng.choice([0, 0.5, 3, 12], p=[0.4, 0.3, 0.2, 0.1])),
        hair_darkness=rng.uniform(0.4, 1.0),
        pattern=str(rng.choice(MOLE_PATTERNS)),
        mole_size=float(np.exp(rng.normal(0, 0.15))),
        mole_darkness=float(np.exp(rng.normal(np.log(0.75), 0.35))),
    )


def draw_lesion(skin: Skin, signs: Signs, shorter_px: int, seed: np.random.SeedSequence) -> npt.NDArray[np.uint8]:
    """Draw a lesion with `signs` on `skin`: uint8 RGB `(H, W, 3)`, its shorter side `shorter_px` pixels."""
    rng = np.random.default_rng(seed)
    aspect = rng.choice([ratio for ratio, _ in ASPECTS], p=[share for _, share in ASPECTS])
    shape = (round(shorter_px * max(1, 1 / aspect)), round(shorter_px * max(1, aspect)))
    canvas = _Canvas(rng, shape)
    reflectance = _paint(canvas, skin, signs)
    seen = reflectance * np.exp(-1.8 * skin.hair_darkness * _hair(canvas, skin)) * _light(canvas)
    return _photograph(canvas, seen)


def draw_jpeg(skin: Skin, signs: Signs, shorter_px: int, seed: np.random.SeedSequence, quality: int) -> bytes:
    """Draw a lesion and encode it as a JPEG of `quality`, 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(draw_lesion(skin, signs, shorter_px, seed)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def keep_memory() -> None:
    """Let this process keep the memory of one picture for the next: 30 ms of CPU a picture instead of 50.

    glibc hands blocks back to the system as they are freed, and gets them again page by page, until it has once seen
    a block of nearly 32 MiB freed (mallopt(3), M_MMAP_THRESHOLD). Other C libraries take no notice.
    """
    np.empty(31 * 2**20, np.uint8)  # never touched, so it costs nothing


class _Canvas:
    """The picture's pixel grid and its source of randomness."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]) -> None:
        self.rng, self.shape, self.px = rng, shape, min(shape)
        height, width = shape
        self.y = (np.arange(height)[:, None] + 0.5 - height / 2) / self.px
        self.x = (np.arange(width)[None, :] + 0.5 - width / 2) / self.px

    def noise(self, cell: float) -> Floats:
        """Return a smooth random field `(H, W)`, each value from N(0, 1), that varies over a length of `cell`."""
        rows, columns = (max(1, round(n / (cell * self.px))) for n in self.shape)
        knots = self.rng.standard_normal((rows + 3, columns + 3))
        field: Floats = _spline(self.shape[0], rows) @ (_spline(self.shape[1], columns) @ knots.T).T
        return field


@lru_cache(maxsize=256)
def _spline(n: int, cells: int) -> csr_array:
    """Return the uniform cubic B-splines over `cells` cells at `n` points, `(n, cells + 3)`, each row of length 1."""
    place = (np.arange(n) + 0.5) * cells / n
    cell = place.astype(np.int64)
    t = place - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    columns = cell[:, None] + np.arange(4)
    # Sparse for its speed, and because BLAS would start a thread a CPU for a dense product.
    return csr_array((weights.ravel(), columns.ravel(), np.arange(0, 4 * n + 1, 4)), shape=(n, cells + 3))


def _step(values: Floats, width: float) -> Floats:
    """Go smoothly from 0 to 1 as `values` go from -width / 2 to width / 2."""
    t = np.clip(values / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _paint(canvas: _Canvas, skin: Skin, signs: Signs) -> Floats:
    """Return the reflectance `(3, H, W)` of the skin and the lesion on it."""
    rng = canvas.rng
    radius = 0.17 * skin.mole_size * (0.8 + 0.7 * signs.diameter) * np.exp(rng.normal(0, 0.12))
    depth = _depth(canvas, signs, radius)
    mask = _step(depth - 0.05, rng.uniform(0.15, 0.6))
    mottle = 0.6 * canvas.noise(0.35) + 0.4 * canvas.noise(0.04) + 0.3 * canvas.noise(0.015)
    freckles = _step(canvas.noise(0.07) - 2.6 + skin.mottling, 0.8)
    melanin = skin.melanin * np.maximum(0.2, 1 + 0.25 * skin.mottling * mottle) + 0.25 * freckles * skin.mottling
    blood = skin.blood * np.maximum(0.2, 1 + 0.22 * canvas.noise(0.3) + 0.12 * canvas.noise(0.03))
    darkness = skin.mole_darkness * np.exp(rng.normal(0, 0.25))
    pigment = darkness * _pigment(canvas, skin.pattern, signs, depth) * mask
    dark, blue, red, white = (patch * mask for patch in _patches(canvas, signs.colour, radius))
    melanin += (pigment + 0.9 * dark) * (1 - 0.8 * white) * (1 - 0.45 * red) * (1 - 0.5 * blue)
    density = melanin * MELANIN + (blood + 0.8 * red) * BLOOD + 0.8 * blue * DEEP_MELANIN
    veil = 0.35 * white
    reflectance: Floats = DERMIS * np.exp(-density) * (1 - veil) + SCAR * veil
    return reflectance


def _depth(canvas: _Canvas, signs: Signs, radius: float) -> Floats:
    """Return how far inside the lesion each pixel lies: 1 at its middle, 0 at its border, below 0 outside."""
    rng = canvas.rng
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.normal(0, 0.14))
    x, y = canvas.x - rng.normal(0, 0.04), canvas.y - rng.normal(0, 0.04)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((along * stretch) ** 2 + (across / stretch) ** 2) / radius
    bulges = (0.04 + 0.32 * signs.asymmetry) * canvas.noise(1.1 * radius)
    notches = (0.03 + 0.21 * signs.border) * (0.8 * canvas.noise(0.32 * radius) + 0.45 * canvas.noise(0.1 * radius))
    depth: Floats = np.minimum(1.0, 1 - distance + bulges + notches)
    return depth


def _pigment(canvas: _Canvas, pattern: str, signs: Signs, depth: Floats) -> Floats:
    """Return the relative density of melanin inside the lesion, about 1."""
    rng = canvas.rng
    fine = canvas.noise(0.024)
    if pattern == "reticular":
        relief = 0.9 * np.exp(-((fine / 0.4) ** 2)) - 0.35
    elif pattern == "globular":
        relief = 1.1 * _step(fine - 0.55, 0.7) - 0.3
    elif pattern == "keratosis":
        relief = 0.7 * _step(fine - 1.1, 0.4) - 0.7 * _step(-fine - 1.2, 0.4) + 0.15 * canvas.noise(0.015)
    elif pattern == "dark centre":
        relief = 0.9 * _step(depth - 0.5, 0.5) - 0.3 + 0.1 * fine
    else:
        relief = 0.15 * fine
    turn = rng.uniform(0, 2 * np.pi)
    tilt = np.clip((canvas.x * np.cos(turn) + canvas.y * np.sin(turn)) / 0.25, -1, 1)
    uneven = 1 + signs.asymmetry * 0.55 * tilt + (0.1 + 0.3 * signs.colour) * canvas.noise(0.12)
    rim = 0.65 + 0.35 * _step(depth - 0.2, 0.5)
    density: Floats = np.maximum(0.1, (1 + relief) * rim * uneven)
    return density


def _patches(canvas: _Canvas, colour: float, radius: float) -> list[Floats]:
    """Return how much of black, blue-grey, red and white each pixel has, 0 to 1; more of them at a higher `colour`."""
    strengths = np.clip(1.5 * colour - 0.25 - 0.9 * canvas.rng.random(4), 0, 0.9)
    grain = canvas.noise(0.02)
    return [
        min(1.0, 3 * strength) * _step(0.9 * canvas.noise(0.6 * radius) + 0.3 * grain - 1.2 + 1.2 * strength, 1.6)
        for strength in strengths
    ]


def _hair(canvas: _Canvas, skin: Skin) -> Floats:
    """Return the cover by hairs, and by the marks of a ruler on some pictures, `(H, W)` from 0 to 1."""
    rng, (height, width) = canvas.rng, canvas.shape
    sheet = Image.new("L", (2 * width, 2 * height))
    draw, unit = ImageDraw.Draw(sheet), 2 * canvas.px
    lie = rng.uniform(0, 2 * np.pi)
    for _ in range(rng.poisson(skin.hairs)):
        angle, bend, length = lie + rng.normal(0, 0.5), rng.normal(0, 1.0), rng.uniform(0.3, 1.0)
        angles = angle + bend * np.linspace(-0.5, 0.5, 12)
        steps = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), axis=0) * length / 12
        points = (steps - steps[6] + rng.uniform(0, 1, 2) * (width / canvas.px, height / canvas.px)) * unit
        draw.line(
            [tuple(p) for p in np.round(points).tolist()], fill=255, width=round(unit * rng.uniform(0.004, 0.009))
        )
    if rng.random() < 0.2:
        for mark in range(2, 30):
            long = 0.05 if mark % 5 == 0 else 0.03
            draw.line(
                [(0.02 * unit, mark * 0.04 * unit), ((0.02 + long) * unit, mark * 0.04 * unit)], fill=150, width=2
            )
    return np.asarray(sheet.reduce(2), np.float64) / 255


def _light(canvas: _Canvas) -> Floats:
    """Return the light that falls on each pixel, `(H, W)`: uneven, with a dark rim and bubbles on some pictures."""
    rng = canvas.rng
    x, y = canvas.x, canvas.y
    slope = rng.normal(0, 0.08, 2)
    light: Floats = 1 + slope[0] * x + slope[1] * y - rng.uniform(0.0, 0.3) * (x * x + y * y)
    if rng.random() < 0.15:
        reach = rng.uniform(0.5, 0.8)
        light = light * (0.06 + 0.94 * _step(reach - np.sqrt(x * x + y * y), rng.uniform(0.04, 0.2)))
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 5)):
            cx, cy, size = rng.uniform(-0.6, 0.6), rng.uniform(-0.45, 0.45), rng.uniform(0.015, 0.05)
            distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
            light = light * (
                1 + 0.3 * np.exp(-(((distance - size) / 0.006) ** 2)) - 0.06 * _step(size - distance, 0.01)
            )
    return light


def _photograph(canvas: _Canvas, radiance: Floats) -> npt.NDArray[np.uint8]:
    """Return what a camera makes of `radiance` `(3, H, W)`: white balance, exposure, focus, noise, uint8."""
    rng = canvas.rng
    gains = np.exp(rng.normal(0, 0.05, (3, 1, 1)) + rng.normal(-0.03, 0.12))  # white balance and exposure
    blur = canvas.px / 256 * rng.uniform(0.3, 1.3)
    image = np.stack([gaussian_filter(channel, blur, truncate=3) for channel in radiance * gains])
    image += rng.normal(0, 0.008, canvas.shape)
    return np.ascontiguousarray(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8).transpose(1, 2, 0))
