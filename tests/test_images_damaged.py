"""Decoding what is no whole JPEG, whatever a disk, a network or an attacker made of it."""

import io

import numpy as np
import pytest
from PIL import Image

from isic_siamese.errors import DataError
from isic_siamese.images import MAX_PIXELS, decode_image
from tests.test_images import ORIENTATION, draw, encode


def pad(jpeg: bytes) -> bytes:
    """Put zeros before the end marker."""
    return jpeg[:-2] + b"\0" * 512 + jpeg[-2:]


@pytest.mark.parametrize("n_bytes", [1, 2, 3, 10, 1000, 20_000])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused(n_bytes: int, progressive: bool) -> None:
    jpeg = encode(draw(900, 700), progressive=progressive)
    with pytest.raises(DataError, match="Premature end of JPEG file"):
        decode_image(jpeg[:-n_bytes], 128)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_cmyk_jpeg_is_refused_also_with_an_end_marker(progressive: bool) -> None:
    jpeg = encode(draw(300, 200).convert("CMYK"), progressive=progressive)
    for damaged in (jpeg[:-10], jpeg[: len(jpeg) // 2] + b"\xff\xd9"):
        with pytest.raises(DataError, match=r"truncated|Premature end|premature end"):
            decode_image(damaged, 64)


def test_a_jpeg_that_declares_more_rows_than_it_has_is_refused() -> None:
    jpeg = encode(draw(320, 240)).replace(b"\x00\xf0\x01\x40", b"\x01\xf0\x01\x40", 1)
    with pytest.raises(DataError, match="Corrupt JPEG data: premature end"):
        decode_image(jpeg, 64)


def test_padding_before_the_end_marker_and_junk_after_it_lose_nothing() -> None:
    jpeg = encode(draw(900, 700))
    for padded in (pad(jpeg), jpeg[:-2] + b"\xff" * 7 + jpeg[-2:], jpeg + b"junk" * 99):
        np.testing.assert_array_equal(decode_image(padded, 128), decode_image(jpeg, 128))


@pytest.mark.parametrize("progressive", [False, True])
def test_padding_is_that_of_the_picture_and_not_of_a_preview_before_or_behind_it(progressive: bool) -> None:
    jpeg, preview = encode(draw(900, 700), progressive=progressive), encode(draw(60, 40))
    in_a_segment = b"\xff\xe2" + (len(preview) + 2).to_bytes(2) + preview
    padded = jpeg[:2] + in_a_segment + pad(jpeg)[2:] + preview
    np.testing.assert_array_equal(decode_image(padded, 128), decode_image(jpeg, 128))


def test_pixels_that_begin_as_a_marker_does_are_none() -> None:
    jpeg = encode(Image.new("L", (900, 700)), quality=100)  # black, in the longest code that there is
    assert jpeg[jpeg.index(b"\xff\xda") :][10:12] == b"\xff\0"
    np.testing.assert_array_equal(decode_image(pad(jpeg), 128), decode_image(jpeg, 128))


def test_padding_of_a_cmyk_jpeg_loses_nothing() -> None:
    jpeg = encode(draw(300, 200).convert("CMYK"))
    np.testing.assert_array_equal(decode_image(pad(jpeg), 64), decode_image(jpeg, 64))


@pytest.mark.parametrize("behind", [b"", b"\xff\xd8" + bytes(200_000) + b"\xff\xd9"], ids=["nothing", "zeros"])
def test_what_is_left_of_a_broken_image_is_not_taken_for_padding(behind: bytes) -> None:
    jpeg = encode(draw(900, 700))
    scan = jpeg.index(b"\xff\xda") + 20
    # From the middle of the scan on, what comes is of another place: the decoder is done before the bytes are.
    damaged = jpeg[: scan + 20_000] + jpeg[scan + 10_000 : scan + 10_512] + jpeg[scan + 20_512 :]
    with pytest.raises(DataError, match="extraneous bytes before marker 0xd9"):
        decode_image(damaged + behind, 128)


def test_damage_in_the_middle_is_not_taken_for_padding() -> None:
    jpeg = bytearray(encode(draw(900, 700), restart_marker_rows=1))
    middle = jpeg.index(b"\xff\xd3")  # a restart marker
    damaged = bytes(jpeg[:middle] + b"\0" * 50 + jpeg[middle:-2] + b"\0" * 50 + jpeg[-2:])
    with pytest.raises(DataError, match="extraneous bytes before marker 0xd3"):
        decode_image(damaged, 128)


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"<html>404 Not Found</html>"])
def test_what_is_no_jpeg_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="not a JPEG"):
        decode_image(content, 128)


def test_a_jpeg_of_a_kind_that_pillow_cannot_read_is_not_called_something_else() -> None:
    jpeg = bytearray(encode(draw(320, 240)))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 4] = 12  # bits a sample
    with pytest.raises(DataError, match="a damaged JPEG, or one of a kind that Pillow cannot read"):
        decode_image(bytes(jpeg), 128)


def test_another_kind_of_image_is_refused() -> None:
    buffer = io.BytesIO()
    draw(300, 200).save(buffer, "PNG")
    with pytest.raises(DataError, match=r"not a JPEG \(it begins with .*PNG"):
        decode_image(buffer.getvalue(), 128)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_absurd_dimensions_are_refused_before_decoding(mode: str) -> None:
    jpeg = encode(draw(320, 240).convert(mode))
    for width, height in ((65_535, 65_535), (12_000, 12_000), (9_440, 9_440)):
        size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        with pytest.raises(DataError, match="pixels"):
            decode_image(jpeg.replace(b"\x00\xf0\x01\x40", size, 1), 128)
    assert MAX_PIXELS > 3 * 6000 * 4000


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken EXIF data, and goes on
def test_damaged_bytes_give_an_image_or_a_data_error_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = draw(200, 150)
    originals = [
        encode(picture, exif=exif),
        encode(picture, progressive=True),
        encode(picture.convert("CMYK")),
        encode(picture.convert("L"), restart_marker_rows=1),
    ]
    n_refused = 0
    for trial in range(600):
        damaged = bytearray(originals[trial % len(originals)])
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(0, 700)] = rng.integers(0, 256)
        try:
            assert decode_image(bytes(damaged), 32).shape == (32, 32, 3)
        except DataError:
            n_refused += 1
    assert 100 < n_refused < 500
