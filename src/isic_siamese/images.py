"""Decode one JPEG straight to the small square image that the network sees."""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from isic_siamese.errors import DataError

Fit = Literal["stretch", "pad", "crop"]


def decode_image(jpeg: bytes, image_px: int, fit: Fit = "stretch") -> npt.NDArray[np.uint8]:
    """Decode a JPEG file's bytes to RGB uint8 `(image_px, image_px, 3)`.

    Raises:
        DataError: the bytes are not a whole JPEG; the message says why, not which file.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.draft("RGB", (2 * image_px, 2 * image_px))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(str(error)) from None
    return np.asarray(upright.resize((image_px, image_px), Image.Resampling.LANCZOS))
