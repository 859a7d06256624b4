"""Tests of writing shards: the same bytes however many do the work, and nothing in silence."""

import json
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic_siamese import images, release, shard_writer
from isic_siamese.errors import DataError, ParamsError
from isic_siamese.images import decode_image
from isic_siamese.shard_writer import ImageSet, ShardTask, check_excluded, drop_images, write_shard, write_shards
from isic_siamese.shards import Shards, read_index
from stages import shards as stage
from tests.jpeg_zips import digests, draw_jpeg, draw_members, image_set, params, write_zip, written
from tests.release_folder import DUPLICATES, TEST, TRUTH, write_table


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return draw_members()


@pytest.fixture
def source(tmp_path: Path, members: dict[str, bytes]) -> Path:
    return write_zip(tmp_path / "images.zip", members)


def test_rows_are_in_the_order_asked_for_whatever_the_order_in_the_zip(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    source = write_zip(tmp_path / "images.zip", dict(reversed(members.items())))
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    shards = Shards(tmp_path / "train")
    assert len(shards) == 23
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [f"shard-0000{n}.npy" for n in range(6)]
    for row, jpeg in enumerate(members.values()):
        np.testing.assert_array_equal(shards.images(np.array([row]))[0], decode_image(jpeg, 32))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, source: Path, workers: int) -> None:
    [sizes] = write_shards([image_set(tmp_path / "one", source)], tmp_path / "work", params(), workers=1)
    [others] = write_shards([image_set(tmp_path / "many", source)], tmp_path / "work", params(), workers=workers)
    assert digests(tmp_path / "one/train") == digests(tmp_path / "many/train")
    pd.testing.assert_frame_equal(sizes, others)


def test_the_size_of_each_image_comes_in_the_order_of_the_rows(tmp_path: Path, members: dict[str, bytes]) -> None:
    test = write_zip(tmp_path / "test.zip", {"train/odd.jpg": draw_jpeg(0, 31, 47)})
    train = write_zip(tmp_path / "train.zip", members)
    sets = [image_set(tmp_path, train), ImageSet(test, ["train/odd.jpg"], tmp_path / "test")]
    sizes, of_test = write_shards(sets, tmp_path / "work", params())
    assert sizes.to_numpy().tolist() == [[200 + number, 150] for number in range(23)]
    assert of_test.to_dict("list") == {"width": [31], "height": [47]}


def test_no_images_have_no_sizes(tmp_path: Path, source: Path) -> None:
    [sizes] = write_shards([ImageSet(source, [], tmp_path / "test")], tmp_path / "work", params())
    assert list(sizes) == ["width", "height"] and len(sizes) == 0


def test_a_compressed_zip_gives_the_same_bytes(tmp_path: Path, source: Path, members: dict[str, bytes]) -> None:
    deflated = write_zip(tmp_path / "deflated.zip", members, zipfile.ZIP_DEFLATED)
    write_shards([image_set(tmp_path / "a", source)], tmp_path / "work", params())
    write_shards([image_set(tmp_path / "b", deflated)], tmp_path / "work", params())
    assert digests(tmp_path / "a/train") == digests(tmp_path / "b/train")


def test_all_bad_images_of_both_zips_are_named_in_one_error_and_nothing_is_written(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    keys = list(members)
    bad = {keys[0]: members[keys[0]][:-20], keys[9]: b"no JPEG", keys[22]: b""}
    train = write_zip(tmp_path / "train.zip", members | bad)
    absent = {key: value for key, value in members.items() if key != keys[5]}
    test = write_zip(tmp_path / "test.zip", absent)
    sets = [image_set(tmp_path, train), image_set(tmp_path, test, "test")]
    with pytest.raises(DataError) as caught:
        write_shards(sets, tmp_path / "work", params(exclude=["ISIC_7"]))
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        f"{tmp_path}: images that cannot be decoded: 4",
        f"train.zip/{keys[0]}: Premature end of JPEG file",
        f"train.zip/{keys[9]}: not a JPEG (it begins with b'no JPEG')",
        f"train.zip/{keys[22]}: not a JPEG: an empty file",
        f"test.zip/{keys[5]}: not in the zip",
        "take other copies of them, or leave them out knowingly, in the section shards of params.yaml:",
        "exclude: ['ISIC_7', 'ISIC_0000000', 'ISIC_0000009', 'ISIC_0000022', 'ISIC_0000005']",
    ]
    assert not (tmp_path / "train").exists() and not (tmp_path / "test").exists()


def test_a_member_damaged_on_disk_is_named(tmp_path: Path, source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[2000] ^= 0x55
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip/train/ISIC_0000000\.jpg: Bad CRC-32"):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())


def test_a_member_that_the_directory_puts_behind_the_end_is_named(tmp_path: Path, source: Path) -> None:
    content = bytearray(source.read_bytes())
    place = content.index(b"PK\1\2") + 42
    content[place : place + 4] = (2**30).to_bytes(4, "little")
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip/train/ISIC_0000000\.jpg: unpack requires"):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06"])
def test_a_zip_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip: not a whole zip"):
        write_shards([image_set(tmp_path, path)], tmp_path / "work", params())


def test_an_absent_zip_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\.zip: no such file; run 'dvc repro download'"):
        write_shards([image_set(tmp_path, tmp_path / "images.zip")], tmp_path / "work", params())


def test_a_worker_that_does_not_see_the_zip_names_it(tmp_path: Path) -> None:
    task = ShardTask(tmp_path / "images.zip", ["a.jpg"], tmp_path / "0.npy", 32, "stretch")
    with pytest.raises(DataError, match=r"images\.zip: no such file; run 'dvc repro download'"):
        write_shard(task)


def test_shards_that_were_good_are_not_written_again_once_the_bad_image_is_mended(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    last = list(members)[-1]
    source = write_zip(tmp_path / "images.zip", members | {last: b"no JPEG"})
    with pytest.raises(DataError):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    kept = written(tmp_path / "work/train")
    assert len(kept) == 5
    write_zip(source, members)
    [sizes] = write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    assert kept < written(tmp_path / "train")
    assert sizes["width"].tolist() == [200 + number for number in range(23)]
    write_shards([image_set(tmp_path / "clean", source)], tmp_path / "work", params())
    assert digests(tmp_path / "train") == digests(tmp_path / "clean/train")


@pytest.mark.parametrize("lost", ["*.npy", "*.csv"])
def test_a_shard_of_which_one_file_is_lost_is_written_again(
    tmp_path: Path, members: dict[str, bytes], lost: str
) -> None:
    source = write_zip(tmp_path / "images.zip", members | {list(members)[-1]: b"no JPEG"})
    with pytest.raises(DataError):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    min((tmp_path / "work/train").rglob(lost)).unlink()
    write_zip(source, members)
    [sizes] = write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    assert sizes["width"].tolist() == [200 + number for number in range(23)]
    assert len(Shards(tmp_path / "train")) == 23


def test_a_worker_sees_that_a_zip_was_replaced(tmp_path: Path, members: dict[str, bytes]) -> None:
    (name, jpeg), *_ = members.items()
    for content, problems in ((b"no JPEG", 1), (jpeg, 0)):
        source = write_zip(tmp_path / "images.zip", {name: content})
        assert len(write_shard(ShardTask(source, [name], tmp_path / "0.npy", 32, "stretch"))) == problems


@pytest.mark.parametrize("changed", ["Pillow", "simplejpeg", "torch", "images.py"])
def test_what_an_interrupted_run_left_is_not_used_by_other_code(
    tmp_path: Path, source: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [task, *_] = shard_writer._plan(image_set(tmp_path, source), tmp_path / "work", params())
    if changed == "images.py":
        monkeypatch.setattr(images, "__file__", __file__)
    else:
        monkeypatch.setattr(shard_writer, "version", lambda name: "0" if name == changed else version(name))
    [other, *_] = shard_writer._plan(image_set(tmp_path, source), tmp_path / "work", params())
    assert other.target != task.target


@pytest.mark.parametrize("change", [{"fit": "crop"}, {"image_px": 48}, {"images_per_shard": 5}, {}])
def test_what_an_interrupted_run_left_is_not_used_for_other_parameters_or_images(
    tmp_path: Path, members: dict[str, bytes], change: dict[str, object]
) -> None:
    last = list(members)[-1]
    source = write_zip(tmp_path / "images.zip", members | {last: b"no JPEG"})
    with pytest.raises(DataError):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    # Without a change of the parameters, the images change places under their names.
    write_zip(source, dict(zip(members, reversed(members.values()), strict=True)) if not change else members)
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params(**change))
    write_shards([image_set(tmp_path / "clean", source)], tmp_path / "new", params(**change))
    assert digests(tmp_path / "train") == digests(tmp_path / "clean/train")


def test_fewer_shards_than_before_leave_none_of_the_old_ones(tmp_path: Path, source: Path) -> None:
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params(images_per_shard=2))
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params(images_per_shard=20))
    assert len(Shards(tmp_path / "train")) == 23


def test_the_reasons_for_leaving_images_out_are_told_apart() -> None:
    truth = pd.DataFrame({"image_name": ["A", "B", "C", "D"]})
    duplicates = pd.DataFrame({"image_name_1": ["C", "C", "C"], "image_name_2": ["D", "B", "Z"]})
    removed = drop_images(truth, duplicates, exclude=["B", "A"])
    assert removed.to_numpy().tolist() == [["A", "excluded"], ["B", "excluded"], ["D", "duplicate"]]


def test_the_first_copy_stands_in_for_an_original_that_is_excluded() -> None:
    truth = pd.DataFrame({"image_name": ["A", "B", "C", "D"]})
    duplicates = pd.DataFrame({"image_name_1": ["A", "A", "A"], "image_name_2": ["B", "C", "D"]})
    for exclude, kept in ((["A"], "B"), (["A", "B"], "C"), (["B"], "A")):
        removed = drop_images(truth, duplicates, exclude)
        assert set(truth["image_name"]) - set(removed["image_name"]) == {kept}
        assert removed.set_index("image_name")["reason"].eq("excluded").sum() == len(exclude)


def test_a_misspelt_name_to_exclude_is_refused() -> None:
    check_excluded(["A"], ["A", "B"])
    with pytest.raises(ParamsError, match=r"in the release: b, c; .*: wanted names without folder and \.jpg"):
        check_excluded(["c", "A", "b"], ["A", "B"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a release of real JPEGs and the parameters, in which a stage can run."""
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    write_table(raw / release.TRUTH_CSV, release.TRUTH_COLUMNS, TRUTH)
    write_table(raw / release.DUPLICATES_CSV, release.DUPLICATES_COLUMNS, DUPLICATES)
    write_table(raw / release.TEST_CSV, release.TEST_COLUMNS, TEST)
    for path, folder, rows in ((release.TRAIN_ZIP, "train/", TRUTH), (release.TEST_ZIP, "ISIC_2020_Test_Input/", TEST)):
        write_zip(raw / path, {f"{folder}{row[0]}.jpg": draw_jpeg(n, 200 + n) for n, row in enumerate(rows)})
    write_params(tmp_path, "[]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, exclude: str) -> None:
    section = f"{{image_px: 32, fit: stretch, images_per_shard: 2, exclude: {exclude}}}"
    (folder / "params.yaml").write_text(f"release: demo\nseed: 1\nmargin: 1.0\nshards: {section}\n")


def test_the_stage_writes_shards_index_removed_images_and_counts(project: Path) -> None:
    stage.main()
    index = read_index(project / "data/shards/train")
    assert index["row"].tolist() == [0, 1, 2]
    assert list(index) == ["row", *release.TRUTH_COLUMNS, "width", "height"]
    assert index[[*release.TRUTH_COLUMNS]].astype(str).to_numpy().tolist() == TRUTH[:3]
    assert index[["width", "height"]].to_numpy().tolist() == [[200, 150], [201, 150], [202, 150]]
    assert len(Shards(project / "data/shards/train")) == 3
    removed = (project / "data/shards/train/removed.csv").read_text()
    assert removed == "image_name,reason\nISIC_0000004,duplicate\n"
    test = read_index(project / "data/shards/test")
    assert test.drop(columns="row").to_numpy().tolist() == [[*TEST[0], 200, 150], [*TEST[1], 201, 150]]
    assert json.loads((project / "metrics/shards.json").read_text()) == {
        "train": {"images": 3, "removed": {"duplicate": 1, "excluded": 0}},
        "test": {"images": 2, "removed": {"excluded": 0}},
    }


def test_the_stage_leaves_out_what_the_parameters_exclude(project: Path) -> None:
    write_params(project, "[ISIC_0000002, ISIC_0000006]")
    stage.main()
    assert read_index(project / "data/shards/train")["image_name"].tolist() == ["ISIC_0000001", "ISIC_0000003"]
    assert read_index(project / "data/shards/test")["image"].tolist() == ["ISIC_0000005"]
    removed = (project / "data/shards/train/removed.csv").read_text()
    assert removed == "image_name,reason\nISIC_0000002,excluded\nISIC_0000004,duplicate\n"


def test_the_stage_refuses_to_leave_out_every_training_image(project: Path) -> None:
    write_params(project, str([row[0] for row in TRUTH]))
    with pytest.raises(ParamsError) as refusal:
        stage.main()
    assert str(refusal.value) == ("shards.exclude: names all 4 training images; wanted a list that leaves some in")
    assert not (project / "data/shards").exists()


def test_the_stage_run_twice_writes_the_same_bytes(project: Path) -> None:
    stage.main()
    first = digests(project / "data/shards/train") | digests(project / "data/shards/test")
    stage.main()
    assert digests(project / "data/shards/train") | digests(project / "data/shards/test") == first


def test_the_stage_refuses_a_misspelt_exclusion_before_any_work(project: Path) -> None:
    write_params(project, "[ISIC_2]")
    with pytest.raises(ParamsError, match="ISIC_2"):
        stage.main()
    assert not (project / "data/shards").exists()
