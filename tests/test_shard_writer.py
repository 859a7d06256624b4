"""Tests of writing shards: the same bytes whoever does the work and however it is killed, and nothing in silence."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from isic_siamese import release, shard_writer
from isic_siamese.errors import DataError, ParamsError
from isic_siamese.images import decode_image
from isic_siamese.shard_writer import DASK_ADDRESS, ImageSet, ShardsParams, check_excluded, drop_images, write_shards
from isic_siamese.shards import Shards, read_index
from stages import shards as stage
from tests.release_folder import DUPLICATES, TEST, TRUTH, write_table

NAMES = [f"ISIC_{number:07}" for number in range(23)]
ROOT = Path(__file__).parents[1]


def draw_jpeg(number: int, width: int = 200, height: int = 150) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def image_set(folder: Path, source: Path, name: str = "train") -> ImageSet:
    return ImageSet(source, [f"train/{name}.jpg" for name in NAMES], folder / name)


def params(**changes: object) -> ShardsParams:
    fields = {"image_px": 32, "fit": "stretch", "images_per_shard": 4, "exclude": []}
    return ShardsParams.model_validate(fields | changes)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def written(folder: Path) -> set[tuple[int, int]]:
    """What a file keeps when it is moved, and loses when it is written again."""
    stats = [path.stat() for path in folder.glob("[!.]*")]
    return {(stat.st_ino, stat.st_mtime_ns) for stat in stats}


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return {f"train/{name}.jpg": draw_jpeg(number) for number, name in enumerate(NAMES)}


@pytest.fixture
def source(tmp_path: Path, members: dict[str, bytes]) -> Path:
    return write_zip(tmp_path / "images.zip", members)


def test_rows_are_in_the_order_asked_for_whatever_the_order_in_the_zip(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    source = write_zip(tmp_path / "images.zip", dict(reversed(members.items())))
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    shards = Shards(tmp_path / "train")
    assert len(shards) == 23 and len(list((tmp_path / "train").iterdir())) == 6
    for row, jpeg in enumerate(members.values()):
        np.testing.assert_array_equal(shards.images(np.array([row]))[0], decode_image(jpeg, 32))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, source: Path, workers: int) -> None:
    write_shards([image_set(tmp_path / "one", source)], tmp_path / "work", params(), workers=1)
    write_shards([image_set(tmp_path / "many", source)], tmp_path / "work", params(), workers=workers)
    assert digests(tmp_path / "one/train") == digests(tmp_path / "many/train")


def test_a_compressed_zip_gives_the_same_bytes(tmp_path: Path, source: Path, members: dict[str, bytes]) -> None:
    deflated = write_zip(tmp_path / "deflated.zip", members, zipfile.ZIP_DEFLATED)
    write_shards([image_set(tmp_path / "a", source)], tmp_path / "work", params())
    write_shards([image_set(tmp_path / "b", deflated)], tmp_path / "work", params())
    assert digests(tmp_path / "a/train") == digests(tmp_path / "b/train")


def test_a_member_larger_than_the_buffer_gives_the_same_bytes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards([image_set(tmp_path / "a", source)], tmp_path / "work", params())
    monkeypatch.setattr(shard_writer, "BUFFER_BYTES", 3700)  # between the smallest and the largest member
    write_shards([image_set(tmp_path / "b", source)], tmp_path / "work", params())
    assert digests(tmp_path / "a/train") == digests(tmp_path / "b/train")


def test_the_workers_of_a_dask_cluster_give_the_same_bytes(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    write_shards([image_set(tmp_path / "here", source)], tmp_path / "work", params())
    with (
        import_module("dask").config.set({"distributed.scheduler.no-workers-timeout": "60s"}),  # rather than for ever
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        monkeypatch.setenv(DASK_ADDRESS, cluster.scheduler_address)
        write_shards([image_set(tmp_path / "there", source)], tmp_path / "work", params())
        with distributed.Client(cluster) as client:
            assert all(client.run(lambda: "isic_siamese.shard_writer" in sys.modules).values())
    assert digests(tmp_path / "here/train") == digests(tmp_path / "there/train")


def test_a_scheduler_without_dask_says_what_to_install(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DASK_ADDRESS, "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParamsError, match="pip install distributed"):
        write_shards([image_set(tmp_path, source)], tmp_path / "work", params())


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
        write_shards(sets, tmp_path / "work", params())
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        f"{tmp_path}: 4 images that cannot be decoded",
        f"train.zip/{keys[0]}: Premature end of JPEG file",
        f"train.zip/{keys[9]}: not a JPEG (it begins with b'no JPEG')",
        f"train.zip/{keys[22]}: not a JPEG (it begins with b'')",
        f"test.zip/{keys[5]}: not in the zip",
        "take other copies of them, or leave them out knowingly: list their names in shards.exclude",
    ]
    assert not (tmp_path / "train").exists() and not (tmp_path / "test").exists()


def test_a_member_damaged_on_disk_is_named(tmp_path: Path, source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[2000] ^= 0x55
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.zip/train/ISIC_0000000\.jpg: Bad CRC-32"):
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
    write_shards([image_set(tmp_path, source)], tmp_path / "work", params())
    assert kept < written(tmp_path / "train")
    write_shards([image_set(tmp_path / "clean", source)], tmp_path / "work", params())
    assert digests(tmp_path / "train") == digests(tmp_path / "clean/train")


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


def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    jpegs = [draw_jpeg(number, 1600, 1200) for number in range(len(NAMES))]
    members = {f"train/{name}.jpg": jpeg for name, jpeg in zip(NAMES, jpegs, strict=True)}
    source = write_zip(tmp_path / "images.zip", members)
    code = f"""
from pathlib import Path
from isic_siamese.shard_writer import ImageSet, ShardsParams, write_shards
params = ShardsParams(image_px=256, fit="stretch", images_per_shard=1, exclude=[])
members = {list(members)!r} * 20
write_shards([ImageSet(Path({str(source)!r}), members, Path({str(tmp_path / "train")!r}))],
    Path({str(tmp_path / "work")!r}), params, workers=2)
"""
    run = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(run, env=environment, stderr=subprocess.DEVNULL) as process:
        while len(list(tmp_path.glob("work/train/[!.]*"))) < 10:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    kept = written(tmp_path / "work/train")
    assert 10 <= len(kept) < 460 and not (tmp_path / "train").exists()
    again = ImageSet(source, list(members) * 20, tmp_path / "train")
    whole = params(images_per_shard=1, image_px=256)
    write_shards([again], tmp_path / "work", whole)
    assert kept < written(tmp_path / "train")
    expected = np.stack([decode_image(jpeg, 256) for jpeg in jpegs])
    np.testing.assert_array_equal(Shards(tmp_path / "train").images(np.arange(460)), np.tile(expected, (20, 1, 1, 1)))


def test_the_reasons_for_leaving_images_out_are_told_apart() -> None:
    truth = pd.DataFrame({"image_name": ["A", "B", "C", "D"]})
    removed = drop_images(truth, duplicates=["D", "B", "Z"], exclude=["B", "A"])
    assert removed.to_numpy().tolist() == [["A", "excluded"], ["B", "excluded"], ["D", "duplicate"]]


def test_a_misspelt_name_to_exclude_is_refused() -> None:
    check_excluded(["A"], ["A", "B"])
    with pytest.raises(ParamsError, match=r"shards\.exclude: no such image in the release: b, c; check the spelling"):
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
        write_zip(raw / path, {f"{folder}{row[0]}.jpg": draw_jpeg(number) for number, row in enumerate(rows)})
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
    assert index.drop(columns="row").astype(str).to_numpy().tolist() == TRUTH[:3]
    assert len(Shards(project / "data/shards/train")) == 3
    removed = (project / "data/shards/train/removed.csv").read_text()
    assert removed == "image_name,reason\nISIC_0000004,duplicate\n"
    assert read_index(project / "data/shards/test").drop(columns="row").to_numpy().tolist() == TEST
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
