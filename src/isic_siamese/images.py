"""Decode one JPEG straight to the small square image that the network sees.

A JPEG stores 8x8 blocks of frequencies, and libjpeg-turbo can turn each into 4x4, 2x2 or 1 pixel instead of 64, at a
fraction of the time. So each image is decoded at the smallest scale that loses nothing at the size wanted, and an
antialiased Lanczos filter does the rest. `docs/benchmarks.md` has the figures behind each choice.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate

from isic_siamese.errors import DataError
from isic_siamese.shards_params import Fit

Size = tuple[int, int]  # width and height, pixels

SCALES = (8, 4, 2, 1)  # a block becomes 1, 4, 16 or 64 pixels
# Decoded pixels that the filter needs for each one it makes, along a side: with 1.4 the worst of 63 real images falls
# to 43.1 dB against full decode, with 1.8 it has 46.9 dB. More costs more: 1/4 scale takes a fifth longer than 1/8.
OVERSAMPLING = 1.75
MAX_PIXELS = 89_000_000  # 24 million are normal; Pillow itself warns of a decompression bomb a little above this
GREY = 128  # of the bars of `pad`: next to nothing to a network whose inputs are centred
DAMAGE = ("Premature end", "Corrupt JPEG data")  # how the fast decoder begins to speak of it
END_OF_IMAGE = b"\xff\xd9"
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers: of the segment that may hold EXIF data, and of the pixels
ORIENTATION, SHORT, LONG = 0x0112, 3, 4  # the EXIF tag, its type, and one that some programs write instead
TURNS = {  # its value: how to hold the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = range(5, 9)  # those that are stored on their side


class Window(NamedTuple):
    """Which part of the full-size image is wanted, and at what size, in pixels."""

    left: int
    top: int
    width: int
    height: int
    target_width: int
    target_height: int


class Decoded(NamedTuple):
    """An image as its JPEG stores it, at 1 / `scale` of its size, and what to take of it."""

    pixels: npt.NDArray[np.uint8]
    window: Window
    scale: int
    size: Size


def decode_image(jpeg: bytes, image_px: int, fit: Fit = "stretch") -> npt.NDArray[np.uint8]:
    """Decode the bytes of a JPEG file to RGB uint8 `(image_px, image_px, 3)`, held upright as its EXIF data says.

    Greyscale and CMYK become RGB. A colour profile is left aside, as by every other reader in this field: the values
    are those stored. All arithmetic on pixels is in integers, so the result should not depend on the processor; it was
    compared between the kernels of one processor, not between processors.

    Args:
        jpeg: the whole file.
        image_px: side of the square, pixels.
        fit: `stretch` squashes the whole frame into the square; `pad` keeps its shape, between grey bars; `crop`
            takes its centre square.

    Raises:
        DataError: the bytes are not a whole JPEG, or declare more than `MAX_PIXELS`. The message says why, and
            leaves it to the caller to say which file.
    """
    return decode_sized(jpeg, image_px, fit)[0]


def decode_sized(jpeg: bytes, image_px: int, fit: Fit = "stretch") -> tuple[npt.NDArray[np.uint8], Size]:
    """Return the result of `decode_image`, and the size of the whole image at full resolution, held upright."""
    pixels, window, scale, (width, height) = _decode_fast(jpeg, image_px, fit) or _decode_any(jpeg, image_px, fit)
    small = _resize(pixels, window, scale)
    orientation = _read_orientation(jpeg)
    if orientation in TURNS:
        small = np.array(Image.fromarray(small).transpose(TURNS[orientation]))
    return _pad(small, image_px), (height, width) if orientation in LYING else (width, height)


def choose_window(width: int, height: int, image_px: int, fit: Fit) -> Window:
    """Return the part of a `width` x `height` image that `fit` shows, and its size within the square.

    >>> choose_window(6000, 4000, 128, "pad")
    Window(left=0, top=0, width=6000, height=4000, target_width=128, target_height=85)
    """
    if fit == "stretch":
        return Window(0, 0, width, height, image_px, image_px)
    if fit == "pad":
        longer = max(width, height)
        target_width, target_height = (max(1, round(image_px * side / longer)) for side in (width, height))
        return Window(0, 0, width, height, target_width, target_height)
    side = min(width, height)
    scale = choose_scale(Window(0, 0, side, side, image_px, image_px))
    # Up to half of the scale off the centre, so that the square begins with a whole decoded pixel.
    left, top = ((length - side + scale) // (2 * scale) * scale for length in (width, height))
    return Window(left, top, side, side, image_px, image_px)


def choose_scale(window: Window) -> int:
    """Return the largest of `SCALES` that leaves `OVERSAMPLING` pixels for each one wanted, along both sides."""
    ratio = min(window.width / window.target_width, window.height / window.target_height)
    return next((scale for scale in SCALES if ratio >= OVERSAMPLING * scale), 1)


def _decode_fast(jpeg: bytes, image_px: int, fit: Fit) -> Decoded | None:
    """Decode at the scale that is enough; return None if this decoder does not know the kind of JPEG."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
    except (ValueError, KeyError):  # a KeyError for 4:4:1
        return None
    _refuse_bomb(width, height)
    if colours in ("CMYK", "YCCK"):
        _refuse_damage(jpeg)
        return None
    window = choose_window(width, height, image_px, fit)
    scale = choose_scale(window)
    # It takes the smallest of its scales that is at least this large, which is this one. 0 is for full size.
    least = {"min_width": -(-width // scale), "min_height": -(-height // scale)} if scale > 1 else {}
    try:
        return Decoded(simplejpeg.decode_jpeg(jpeg, **least), window, scale, (width, height))
    except ValueError as error:
        problem = str(error)
    if _is_padding(problem, jpeg):
        # The decoder stops at its first warning, so nothing was wrong before.
        return Decoded(simplejpeg.decode_jpeg(jpeg, strict=False, **least), window, scale, (width, height))
    if problem.startswith(DAMAGE):
        raise DataError(problem)
    return None


def _is_padding(problem: str, jpeg: bytes) -> bool:
    """Whether the decoder warns of nothing but zeros before the end marker, which some cameras write."""
    warning = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", problem)
    if not warning:
        return False
    # Not the last end marker of the file, nor the first: previews lie behind the picture and in segments before it.
    start_of_pixels = max((end for *_, end in _segments(jpeg)), default=0)
    before = jpeg[: jpeg.index(END_OF_IMAGE, start_of_pixels)]
    return set(before[-int(warning[1]) :]) <= {0x00, 0xFF}  # else they are of the image, whose code is broken


def _refuse_damage(jpeg: bytes) -> None:
    """Raise what the fast decoder says of a JPEG that only Pillow can turn into RGB; Pillow itself says nothing."""
    try:
        simplejpeg.decode_jpeg(jpeg, colorspace="CMYK")
    except ValueError as error:
        if str(error).startswith(DAMAGE) and not _is_padding(str(error), jpeg):
            raise DataError(str(error)) from None


def _decode_any(jpeg: bytes, image_px: int, fit: Fit) -> Decoded:
    """Decode at full size with Pillow, which knows the rare kinds of JPEG too, and can tell what is none."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            _refuse_bomb(image.width, image.height)
            pixels = np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        if not jpeg:
            raise DataError("not a JPEG: an empty file") from None
        if jpeg[:3] == b"\xff\xd8\xff":
            raise DataError("a damaged JPEG, or one of a kind that Pillow cannot read") from None
        raise DataError(f"not a JPEG (it begins with {jpeg[:8]!r})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(str(error)) from None
    height, width = pixels.shape[:2]
    return Decoded(pixels, choose_window(width, height, image_px, fit), 1, (width, height))


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels, wanted at most {MAX_PIXELS:,} in all")


def _read_orientation(jpeg: bytes) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or the EXIF data is broken.

    By hand, because Pillow reads all of the EXIF data for it, and warns of what is broken elsewhere: 0.4 ms of the 10
    that a camera original takes.
    """
    for marker, start, end in _segments(jpeg):
        if marker == APP1 and jpeg[start : start + 6] == b"Exif\0\0":
            return _find_orientation(jpeg[start + 6 : end])
    return 1


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the pixels, which the last one, the start of scan, leads."""
    at, marker = 2, 0
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and marker != START_OF_SCAN:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # any number of them may lead a marker
            at += 1
            continue
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        yield marker, at + 4, end
        at = end


def _find_orientation(tiff: bytes) -> int:
    """Look through the first directory of a TIFF file, which is what EXIF data is."""
    order = ">" if tiff[:2] == b"MM" else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (n_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * n_entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == ORIENTATION and kind in (SHORT, LONG):
                return int(struct.unpack_from(f"{order}{'H' if kind == SHORT else 'I'}", tiff, entry + 8)[0])
    except struct.error:
        pass  # it ends too early
    return 1


def _resize(pixels: npt.NDArray[np.uint8], window: Window, scale: int) -> npt.NDArray[np.uint8]:
    """Resize the `window` of an image decoded at 1 / `scale` to RGB uint8 `(target_height, target_width, 3)`."""
    rows = slice(window.top // scale, -(-(window.top + window.height) // scale))
    columns = slice(window.left // scale, -(-(window.left + window.width) // scale))
    # The last decoded pixel covers less than `scale` where a side is no multiple of it. By factor rather than by size,
    # the filter knows; by size, 2,725 x 2,082 pixels come out at 37.9 dB instead of 46.4. Torch rounds the size down.
    factors = (
        window.target_height * scale / window.height * (1 + 1e-12),
        window.target_width * scale / window.width * (1 + 1e-12),
    )
    batch = torch.from_numpy(pixels[rows, columns]).permute(2, 0, 1)[None]
    resized = interpolate(batch, scale_factor=factors, mode="lanczos", antialias=True)
    small: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return small


def _pad(small: npt.NDArray[np.uint8], image_px: int) -> npt.NDArray[np.uint8]:
    """Put the image in the middle of a grey square, if it does not fill it."""
    height, width = small.shape[:2]
    if height == width == image_px:
        return small
    square = np.full((image_px, image_px, 3), GREY, np.uint8)
    top, left = (image_px - height) // 2, (image_px - width) // 2
    square[top : top + height, left : left + width] = small
    return square
