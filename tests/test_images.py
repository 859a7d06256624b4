"""Decoding one JPEG: fidelity, geometry, and every kind a camera makes; for broken ones: `test_images_damaged.py`."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from isic_siamese.images import TURNS, choose_scale, choose_window, decode_image, decode_sized

FULLSIZE = Path(__file__).parents[2] / "shared/fullsize-cc0/ISIC_2020_Training_JPEG.zip"
ORIENTATION = 0x0112


def draw(width: int, height: int, seed: int = 0) -> Image.Image:
    """A colourful picture, different in all its corners, with detail of a few pixels over smooth areas."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    grain = Image.fromarray(fine).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(coarse, grain, 0.15)


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def reference(jpeg: bytes, image_px: int, box: tuple[int, int, int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Full decode and antialiased Lanczos, by Pillow."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))).convert("RGB")
    return np.asarray(upright.resize((image_px, image_px), Image.Resampling.LANCZOS, box=box))


def psnr(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio, dB."""
    error = float(np.mean((image.astype(float) - other) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "size", [(2048, 1536), (1801, 1799), (1024, 683), (513, 511), (300, 200), (129, 127), (70, 50)]
)
def test_an_image_of_any_size_is_as_good_as_fully_decoded(size: tuple[int, int], subsampling: str) -> None:
    jpeg = encode(draw(*size), subsampling=subsampling)
    assert psnr(decode_image(jpeg, 128), reference(jpeg, 128)) > 44


@pytest.mark.skipif(not FULLSIZE.exists(), reason="needs the camera originals in ../shared")
def test_camera_originals_are_as_good_as_fully_decoded() -> None:
    with zipfile.ZipFile(FULLSIZE) as archive:
        names = [f"train/ISIC_{number:07}.jpg" for number in (80, 380, 411)]  # 1/8 scale, odd size, the smallest
        for jpeg in map(archive.read, names):
            assert psnr(decode_image(jpeg, 128), reference(jpeg, 128)) > 46


def test_the_scale_is_the_smallest_that_leaves_enough_pixels() -> None:
    sizes = [(6000, 4000), (3072, 2304), (2592, 1944), (1872, 1053), (640, 480), (512, 512), (447, 600), (200, 100)]
    assert [choose_scale(choose_window(*size, 128, "stretch")) for size in sizes] == [8, 8, 8, 4, 2, 2, 1, 1]


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.sampled_from([16, 85, 128, 224]))
def test_a_window_lies_within_the_image_and_begins_with_a_whole_pixel_at_its_scale(
    width: int, height: int, image_px: int
) -> None:
    for fit in ("stretch", "pad", "crop"):
        window = choose_window(width, height, image_px, fit)
        scale = choose_scale(window)
        assert window.left + window.width <= width and window.top + window.height <= height
        assert window.left % scale == 0 and window.top % scale == 0
        assert max(window.target_width, window.target_height) == image_px


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from(["stretch", "pad", "crop"]))
def test_every_size_and_fit_gives_a_square_of_the_right_size(width: int, height: int, fit: str) -> None:
    image = decode_image(encode(Image.new("RGB", (width, height), (200, 180, 150))), 32, fit)  # type: ignore[arg-type]
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.abs(image.max(axis=(0, 1)).astype(int) - (200, 180, 150)).max() <= 2  # beside darker bars, if any


@pytest.mark.parametrize("side", [49, 98, 103, 392, 824, 1648])
def test_a_side_whose_factor_rounds_down_gives_a_square_of_the_right_size(side: int) -> None:
    assert not decode_image(encode(Image.new("RGB", (side, side))), 32).any()  # 49 * (32 / 49) < 32, so a grey bar


def test_pad_keeps_the_shape_between_grey_bars() -> None:
    jpeg = encode(draw(1200, 800))
    image = decode_image(jpeg, 96, "pad")
    assert (image[:16] == 128).all() and (image[80:] == 128).all()
    wanted = np.asarray(Image.open(io.BytesIO(jpeg)).resize((96, 64), Image.Resampling.LANCZOS))
    assert psnr(image[16:80], wanted) > 44


@pytest.mark.parametrize("size", [(341, 256), (333, 250), (1501, 1000)])
def test_a_crop_of_a_mirrored_image_is_the_mirrored_crop(size: tuple[int, int]) -> None:
    picture = draw(*size)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = (decode_image(encode(image, subsampling="4:4:4"), 96, "crop") for image in (picture, mirrored))
    assert psnr(one, other[:, ::-1]) > 30  # off by half a pixel of the JPEG where the margins are odd


def test_crop_takes_the_centre_square() -> None:
    jpeg = encode(draw(1200, 800))
    assert psnr(decode_image(jpeg, 96, "crop"), reference(jpeg, 96, box=(200, 0, 1000, 800))) > 44
    tall = encode(draw(800, 1200))
    assert psnr(decode_image(tall, 96, "crop"), reference(tall, 96, box=(0, 200, 800, 1000))) > 44


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("orientation", [1, *TURNS])
def test_a_turned_camera_gives_an_upright_image(orientation: int, fit: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    jpeg = encode(draw(600, 400), exif=exif)
    upright = encode(ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg))), quality=100, subsampling="4:4:4")
    assert psnr(decode_image(jpeg, 64, fit), decode_image(upright, 64, fit)) > 38  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])  # one for each decoder
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("orientation", [1, *TURNS])
def test_the_size_is_that_of_the_whole_image_held_upright(orientation: int, fit: str, mode: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    jpeg = encode(draw(601, 399).convert(mode), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))
    assert decode_sized(jpeg, 32, fit)[1] == upright.size  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_taken_as_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = draw(300, 200)
    np.testing.assert_array_equal(decode_image(encode(image, exif=exif), 64), decode_image(encode(image), 64))


@pytest.mark.parametrize("kind", ["SHORT", "LONG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_read_in_either_byte_order_after_other_segments_and_tags(order: str, kind: str) -> None:
    value = (3, 1, struct.pack(f"{order}HH", 6, 0)) if kind == "SHORT" else (4, 1, struct.pack(f"{order}I", 6))
    tags = [(0x010E, 2, 4, b"abc\0"), (ORIENTATION, *value)]
    tiff = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    tiff += b"".join(struct.pack(f"{order}HHI", *tag[:3]) + tag[3] for tag in tags) + bytes(4)
    image = draw(300, 200)
    turned = encode(image, exif=b"Exif\0\0" + tiff, comment=b"x" * 400)
    np.testing.assert_array_equal(decode_image(turned, 64), np.rot90(decode_image(encode(image), 64), -1))


def test_the_orientation_is_read_after_a_segment_of_the_same_kind_that_is_no_exif_data() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = draw(300, 200)
    jpeg = encode(image, exif=exif)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(xmp)) + xmp + jpeg[2:]
    np.testing.assert_array_equal(decode_image(turned, 64), decode_image(jpeg, 64))
    filled = jpeg[:2] + b"\xff\xff" + jpeg[2:]  # T.81, B.1.1.2
    np.testing.assert_array_equal(decode_image(filled, 64), decode_image(jpeg, 64))


@pytest.mark.parametrize("exif", [b"", b"garbage garbage", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff"])
def test_broken_exif_data_does_not_matter(exif: bytes) -> None:
    image = draw(300, 200)
    np.testing.assert_array_equal(
        decode_image(encode(image, exif=b"Exif\0\0" + exif), 64), decode_image(encode(image), 64)
    )


def test_a_progressive_jpeg_is_the_same_image() -> None:
    image = draw(900, 700)
    plain, progressive = encode(image), encode(image, progressive=True)
    np.testing.assert_array_equal(decode_image(plain, 128), decode_image(progressive, 128))


def test_a_greyscale_jpeg_becomes_rgb() -> None:
    jpeg = encode(draw(900, 700).convert("L"))
    image = decode_image(jpeg, 128)
    assert (image == image[:, :, :1]).all()
    assert psnr(image, reference(jpeg, 128)) > 44


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_a_cmyk_jpeg_becomes_rgb(fit: str) -> None:
    picture = draw(900, 600)
    image = decode_image(encode(picture.convert("CMYK")), 96, fit)  # type: ignore[arg-type]
    assert psnr(image, decode_image(encode(picture), 96, fit)) > 35  # type: ignore[arg-type]


def test_a_jpeg_stored_as_rgb_is_not_taken_for_ycbcr() -> None:
    jpeg = encode(draw(900, 700), keep_rgb=True)
    assert psnr(decode_image(jpeg, 128), reference(jpeg, 128)) > 44


def test_a_colour_profile_changes_nothing() -> None:
    image = draw(300, 200)
    with_profile = encode(image, icc_profile=b"\0" * 3000)
    np.testing.assert_array_equal(decode_image(with_profile, 64), decode_image(encode(image), 64))


@pytest.mark.parametrize("luminance, blue", [(0x11, 0x22), (0x14, 0x11)])
def test_a_sampling_that_the_fast_decoder_does_not_know_is_decoded_by_the_other(luminance: int, blue: int) -> None:
    # Optimised for a flat image, every block has the same two bits, so the six blocks of a 4:2:0 unit (2x2 of Y, one of
    # Cb, one of Cr) may as well be one of Y, 2x2 of Cb and one of Cr, or 1x4, one and one.
    flat = bytearray(encode(Image.new("RGB", (160, 160), (128, 128, 128)), subsampling="4:2:0", optimize=True))
    frame = flat.index(b"\xff\xc0")
    assert flat[frame + 11] == 0x22 and flat[frame + 14] == 0x11
    flat[frame + 11], flat[frame + 14] = luminance, blue
    assert (decode_image(bytes(flat), 32) == 128).all()
