"""Tests of reading shards: any rows, in any order, and kind errors for what is absent or broken."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isic_siamese.errors import DataError
from isic_siamese.shards import Shards, read_index, read_removed, read_shards

SIZES = (4, 4, 3)  # images in each shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    for number, shard in enumerate(np.split(all_images(), np.cumsum(SIZES)[:-1])):
        np.save(path / f"shard-{number:05}.npy", shard)
    return path


def all_images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (sum(SIZES), 8, 8, 3), np.uint8)


def test_shards_know_their_length_and_their_image_size(folder: Path) -> None:
    shards = Shards(folder)
    assert len(shards) == 11
    assert shards.image_px == 8


@settings(deadline=None)
@given(st.lists(st.integers(0, sum(SIZES) - 1)))
def test_any_rows_come_in_the_order_asked_for(folder: Path, rows: list[int]) -> None:
    images = Shards(folder).images(np.array(rows, np.int64))
    np.testing.assert_array_equal(images, all_images()[rows])
    assert images.dtype == np.uint8 and images.flags.writeable


@pytest.mark.parametrize("row", [-1, 11])
def test_a_row_out_of_range_is_refused(folder: Path, row: int) -> None:
    with pytest.raises(IndexError, match=r"wanted 0\.\.10"):
        Shards(folder).images(np.array([0, row]))


def test_batches_follow_one_another_and_the_last_is_shorter(folder: Path) -> None:
    rows = np.arange(sum(SIZES))[::-1]
    batches = list(Shards(folder).batches(rows, 4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches), all_images()[::-1])


def test_a_task_is_shown_as_a_bar_on_the_error_output_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, rows = Shards(folder), np.arange(sum(SIZES))
    silent = list(shards.batches(rows, 4))
    assert capsys.readouterr() == ("", "")
    shown = list(shards.batches(rows, 4, "embed"))
    output = capsys.readouterr()
    assert output.out == "" and "embed: 100%" in output.err and "3/3" in output.err
    np.testing.assert_array_equal(np.concatenate(shown), np.concatenate(silent))


def test_no_shards_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards; run 'dvc repro shards' or 'dvc pull'"):
        Shards(tmp_path)


def test_a_shard_that_is_cut_short_while_it_is_read_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.npy"
    path.write_bytes((folder / path.name).read_bytes())
    shards = Shards(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(shards.images(np.arange(3)), all_images()[:3])
    with pytest.raises(DataError, match=r"shard-00000.npy: ends too early; run 'dvc repro -f shards'"):
        shards.images(np.array([3]))


def test_a_shard_cut_short_is_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "shard-00000.npy").read_bytes()
    for n_bytes in (0, 20, 200):
        (tmp_path / "shard-00000.npy").write_bytes(whole[:n_bytes])
        with pytest.raises(DataError, match=r"shard-00000\.npy: not a whole shard"):
            Shards(tmp_path)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 8, 8, 3)), r"float64 \(2, 8, 8, 3\) in C order"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"uint8 \(2, 8, 9, 3\) in C order"),
        (np.zeros(3, np.uint8), r"uint8 \(3,\) in C order"),
        (np.zeros((2, 8, 8, 3), np.uint8, "F"), r"uint8 \(2, 8, 8, 3\) in Fortran order"),
    ],
)
def test_an_array_that_is_no_shard_is_named(tmp_path: Path, array: npt.NDArray[np.generic], got: str) -> None:
    np.save(tmp_path / "shard-00000.npy", array)
    with pytest.raises(DataError, match=rf"{got}, wanted uint8 \(n, px, px, 3\) in C order"):
        Shards(tmp_path)


def test_a_table_of_removed_images_is_read_or_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"removed\.csv: no such file; run 'dvc repro shards'"):
        read_removed(tmp_path)
    (tmp_path / "removed.csv").write_text("image_name,reason\nNA,duplicate\n")
    assert read_removed(tmp_path).to_dict("list") == {"image_name": ["NA"], "reason": ["duplicate"]}
    (tmp_path / "removed.csv").write_text("image\nNA\n")
    with pytest.raises(DataError, match=r"removed\.csv: not a table of removed images: .*; run 'dvc repro -f shards'"):
        read_removed(tmp_path)


@pytest.mark.parametrize("px", [4, 16])
def test_shards_of_different_sizes_do_not_go_together(folder: Path, tmp_path: Path, px: int) -> None:
    (tmp_path / "shard-00000.npy").write_bytes((folder / "shard-00000.npy").read_bytes())
    np.save(tmp_path / "shard-00001.npy", np.zeros((2, px, px, 3), np.uint8))
    with pytest.raises(DataError, match=rf"shard-00001\.npy: images of {px} px, those of shard-00000\.npy have 8"):
        Shards(tmp_path)


@pytest.mark.parametrize("names", [["shard-00000 (copy).npy", "shard-00001.npy"], ["shard-00001.npy"]])
def test_shards_that_are_not_numbered_one_after_the_other_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        np.save(tmp_path / name, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"wanted shard-00000\.npy in its place; run 'dvc repro -f shards'"):
        Shards(tmp_path)


@pytest.mark.parametrize("n", [4, 6])
def test_an_index_of_other_images_than_the_shards_is_refused(tmp_path: Path, n: int) -> None:
    np.save(tmp_path / "shard-00000.npy", np.zeros((5, 8, 8, 3), np.uint8))
    pd.DataFrame({"row": range(n)}).to_csv(tmp_path / "index.csv", index=False)
    with pytest.raises(DataError, match=f"5 images in its shards, {n} in its index.csv; run 'dvc repro -f shards'"):
        read_shards(tmp_path)
    pd.DataFrame({"row": range(5)}).to_csv(tmp_path / "index.csv", index=False)
    index, images = read_shards(tmp_path)
    assert len(index) == len(images) == 5


def test_an_index_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(
        "row,image_name,age_approx,sex,target,width,height\n0,NA,45.0,,1,640,480\n1,007,,male,0,6000,4000\n"
    )
    index = read_index(tmp_path)
    assert index.to_dict("list") == {
        "row": [0, 1],
        "image_name": ["NA", "007"],
        "age_approx": ["45.0", ""],
        "sex": ["", "male"],
        "target": [1, 0],
        "width": [640, 6000],
        "height": [480, 4000],
    }
    assert (index[["row", "target", "width", "height"]].dtypes == np.int64).all()


def test_an_index_without_labels_has_no_target(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("row,image\n0,A\n")
    pd.testing.assert_frame_equal(read_index(tmp_path), pd.DataFrame({"row": [0], "image": ["A"]}), check_dtype=False)


def test_an_absent_index_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.csv: no such file; run 'dvc repro shards'"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "image\nA\n", "row,image\nx,A\n", "row,image\n1,A\n", "row\n0\n2\n", "row,image,target\n0,A,\n"]
)
def test_a_table_that_is_no_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=r"index\.csv: not an index of shards"):
        read_index(tmp_path)
