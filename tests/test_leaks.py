import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dct

from isic_siamese import leaks
from isic_siamese.errors import DataError
from isic_siamese.images import decode_image
from isic_siamese.leaks import check_leaks, near_duplicates, perceptual_hashes, shared_pictures, thumbnails

SUBSET = Path(__file__).parents[2] / "shared/isic2020-subset/ISIC_2020_Training_JPEG.zip"
Change = Callable[[Image.Image], Image.Image]
ROWS = {"train": np.array([0, 2]), "val": np.array([1, 3]), "test": np.array([4, 5])}


def pictures(n: int, px: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(n, 12, 12, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((px, px), Image.Resampling.BICUBIC)) for one in coarse])


def index_of(**columns: list[str]) -> pd.DataFrame:
    names = {
        "image_name": [f"ISIC_{number}" for number in range(6)],
        "patient_id": [f"IP_{number}" for number in range(6)],
        "lesion_id": [f"IL_{number}" for number in range(6)],
    }
    return pd.DataFrame(names | columns)


@pytest.mark.parametrize("px", [32, 100, 128])
def test_a_thumbnail_is_the_grey_mean_of_blocks(px: int) -> None:
    images = pictures(2, px)
    thumb = thumbnails(images)
    edges = [int(number * px / 32) for number in range(33)]
    block = images[1, edges[3] : edges[4], edges[31] : edges[32]].astype(float) @ [0.299, 0.587, 0.114]
    assert thumb.shape == (2, 32, 32)
    assert thumb[1, 3, 31] == pytest.approx(block.mean(), rel=1e-5)


def test_the_thumbnail_of_a_smaller_image_repeats_its_pixels() -> None:
    images = pictures(2, 16)
    grey = images @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(thumbnails(images), grey.repeat(2, axis=1).repeat(2, axis=2), rtol=1e-5)


def test_a_hash_holds_which_low_frequencies_are_above_their_median() -> None:
    thumb = thumbnails(pictures(1))
    frequencies = dct(dct(thumb[0].astype(float), axis=0), axis=1)[:16, :16].ravel()[1:]
    bits = np.unpackbits(perceptual_hashes(thumb).view(np.uint8))
    np.testing.assert_array_equal(bits[:255], frequencies > np.median(frequencies))


def saved_again(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        saved_again,
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        lambda image: image.point(lambda value: int(0.8 * value + 20)),
    ],
)
def test_a_copy_is_found_however_it_was_saved(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "CHUNK", 5)
    images = pictures(4)
    copy = np.asarray(change(Image.fromarray(images[2])))[None]
    assert near_duplicates(thumbnails(copy), thumbnails(images)) == [(0, 2)]


def test_unlike_pictures_are_not_found() -> None:
    thumbs = thumbnails(pictures(60))
    assert near_duplicates(thumbs[:30], thumbs[30:]) == []


def test_pictures_that_agree_in_their_low_frequencies_alone_are_no_copies() -> None:
    thumbs = thumbnails(pictures(3))
    waves = np.cos(np.pi * 20 * (np.arange(32) + 0.5) / 32)
    for strength, found in ((60, []), (3, [(0, 0), (1, 1), (2, 2)])):
        other = thumbs + (strength * np.outer(waves, waves)).astype(np.float32)
        np.testing.assert_array_equal(perceptual_hashes(other), perceptual_hashes(thumbs))
        assert near_duplicates(thumbs, other) == found


def test_hashes_are_close_that_differ_in_at_most_so_many_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "CHUNK", 400)  # ten of ours at a time
    rng = np.random.default_rng(0)
    bits = rng.random((40, 256)) < 0.5
    others = bits ^ (rng.permuted(np.tile(np.arange(256), (40, 1)), axis=1) < np.arange(40)[:, None])
    ours, theirs = (np.packbits(some, axis=1).view(np.uint64) for some in (bits, others))
    assert sorted(leaks._close_hashes(ours, theirs)) == [(number, number) for number in range(leaks.MAX_BITS + 1)]


def test_pictures_of_one_colour_are_no_copies_of_each_other() -> None:
    thumbs = thumbnails(np.full((2, 32, 32, 3), 90, np.uint8))
    assert near_duplicates(thumbs[:1], thumbs[1:]) == []


def test_clean_splits_pass_and_are_counted() -> None:
    index = index_of(lesion_id=["", "a", "", "a", "b", ""])
    counts = check_leaks(index, ROWS, pd.Series(["ISIC_9"]), thumbnails(pictures(6)))
    assert counts == {"patients": 6, "lesions": 2, "images": 6}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (index_of(patient_id=["a", "b", "c", "d", "e", "a"]), r"1 patients \(a\)"),
        (index_of(lesion_id=["", "y", "x", "y", "x", ""]), r"1 lesions \(x\)"),
        (index_of(image_name=["a", "b", "c", "d", "e", "d"]), r"1 images \(d\)"),
        (index_of(image_name=["a", "b", "c", "d", "e", "ISIC_9"]), r"1 official duplicates \(ISIC_9\)"),
    ],
)
def test_a_leak_is_counted_and_named(index: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=rf"the splits share {message}; run 'dvc repro -f split'"):
        check_leaks(index, ROWS, pd.Series(["ISIC_9"]), thumbnails(pictures(6)))


@pytest.mark.parametrize(("one", "other"), [(4, 2), (5, 3), (3, 2)])
def test_a_mirrored_image_in_two_splits_is_a_leak(one: int, other: int) -> None:
    images = pictures(6)
    images[one] = images[other][:, ::-1]
    with pytest.raises(DataError, match=rf"1 near-identical images \(ISIC_{one} and ISIC_{other}\)"):
        check_leaks(index_of(), ROWS, pd.Series([], dtype=str), thumbnails(images))


def test_one_picture_of_two_patients_is_found_and_named_and_of_one_patient_it_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    images = pictures(6)
    images[4] = images[1][:, ::-1]
    assert shared_pictures(index_of(patient_id=["a", "b", "c", "d", "b", "e"]), thumbnails(images)) == []
    assert caplog.text == ""
    assert shared_pictures(index_of(), thumbnails(images)) == [(1, 4)]
    assert "1 pairs of near-identical pictures of two patients, who stay together (ISIC_1 and ISIC_4)" in caplog.text


def test_whatever_is_a_leak_between_splits_is_found_before_they_are_made() -> None:
    rng = np.random.default_rng(0)
    thumbs = thumbnails(pictures(200))
    noise = rng.normal(0, 60, thumbs.shape).astype(np.float32)
    copies = np.rot90(0.9 * thumbs + 0.1 * noise, axes=(1, 2))  # so that some are found one way only
    both = np.concatenate([thumbs, copies])[rng.permutation(400)]
    one_way, other_way = near_duplicates(both[:200], both[200:]), near_duplicates(both[200:], both[:200])
    assert {(i, j) for j, i in other_way} != set(one_way)
    index = pd.DataFrame({"image_name": map(str, range(400)), "patient_id": map(str, range(400))})
    shared = set(shared_pictures(index, both))
    assert {(i, j + 200) for i, j in one_way} | {(j, i + 200) for i, j in other_way} <= shared


def test_all_leaks_are_in_one_message() -> None:
    index = index_of(patient_id=["a", "b", "a", "b", "a", "b"], lesion_id=["x"] * 6)
    with pytest.raises(DataError, match=r"2 patients \(a, b\); 1 lesions \(x\);"):
        check_leaks(index, ROWS, pd.Series([], dtype=str), thumbnails(pictures(6)))


@pytest.mark.skipif(not SUBSET.exists(), reason="needs the real images beside the repository")
def test_real_dermoscopy_of_different_lesions_is_told_apart_and_an_official_duplicate_is_found() -> None:
    with zipfile.ZipFile(SUBSET) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::6]
        pair = ["train/ISIC_0149568.jpg", "train/ISIC_9022005.jpg"]
        images = [decode_image(archive.read(name), 128) for name in [*pair, *(set(names) - set(pair))]]
    thumbs = thumbnails(np.stack(images))
    assert near_duplicates(thumbs[:1], thumbs[1:]) == [(0, 0)]
    half = len(thumbs) // 2
    assert near_duplicates(thumbs[1:half], thumbs[half:]) == []
