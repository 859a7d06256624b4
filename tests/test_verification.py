"""The five files against each other, and the memory of what passed."""

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.verification import has_verified_twin, verify_release
from tests.release_folder import TEST, TRUTH, write_release, write_table, write_truth_v1, write_zip

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the official files are not here")
COUNTS = {"train": {"images": 4, "melanomas": 1, "patients": 2, "duplicate_pairs": 1}, "test": {"images": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


def verify(folder: Path, official: bool = False) -> dict[str, dict[str, int]]:
    return verify_release(folder, folder.parent / "verified.json", official)


def refusal_of(folder: Path, official: bool = False) -> str:
    with pytest.raises(DataError) as refusal:
        verify(folder, official)
    return str(refusal.value)


def test_a_right_release_is_counted(folder: Path) -> None:
    assert verify(folder) == COUNTS


def test_a_release_with_the_older_ground_truth_is_counted(folder: Path) -> None:
    write_truth_v1(folder)
    assert verify(folder) == COUNTS


def test_of_two_ground_truths_the_newer_one_is_read(folder: Path) -> None:
    newer = (folder / release.TRUTH_CSV).read_bytes()
    write_truth_v1(folder)
    (folder / release.TRUTH_V1_CSV).write_text("damaged")
    (folder / release.TRUTH_CSV).write_bytes(newer)
    assert verify(folder) == COUNTS


def test_absent_files_are_all_named_with_what_does_instead(folder: Path) -> None:
    for name in (release.TRUTH_CSV, release.TEST_CSV):
        (folder / name).unlink()
    assert refusal_of(folder).splitlines() == [
        f"{folder}: not a whole release: it lacks {release.TRUTH_CSV}, {release.TEST_CSV}; add what is missing, or set "
        "'release' in params.yaml to demo, isic2020 or a folder that holds a release",
        f"{release.TRUTH_CSV}: {release.TRUTH_V1_CSV} is as good, and so is Kaggle's train.csv under that name",
        f"{release.TEST_CSV}: without unlabelled images leave out {release.TEST_ZIP}, too",
    ]


def test_a_table_that_must_be_there_is_missed_beside_what_may_be_left_out(folder: Path) -> None:
    for name in (release.TRUTH_CSV, *release.EMPTY):
        (folder / name).unlink()
    assert refusal_of(folder).startswith(f"{folder}: not a whole release: it lacks {release.TRUTH_CSV}; add what")
    assert "leave out" not in refusal_of(folder, official=True)


@pytest.mark.parametrize("name", release.EMPTY)
def test_a_link_that_leads_nowhere_is_not_left_out(folder: Path, name: str) -> None:
    for empty in release.EMPTY:
        (folder / empty).unlink()
    (folder / name).symlink_to(folder / "on a disk that is not mounted")
    assert name in refusal_of(folder).partition("; ")[0]


@pytest.mark.parametrize("left_out", [[release.DUPLICATES_CSV], [release.TEST_CSV, release.TEST_ZIP], release.EMPTY])
@pytest.mark.parametrize("empty", [False, True])
def test_duplicates_and_the_test_part_may_be_left_out_or_empty(
    folder: Path, left_out: Iterable[str], empty: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in left_out:
        (folder / name).unlink()
        if empty:
            (folder / name).write_bytes(release.EMPTY[name])
    counts = verify(folder)
    assert counts["train"]["duplicate_pairs"] == (0 if release.DUPLICATES_CSV in left_out else 1)
    assert counts["test"]["images"] == (0 if release.TEST_ZIP in left_out else 2)
    assert [name in caplog.text for name in left_out] == [not empty for _ in left_out]
    if not empty:
        assert all(name in refusal_of(folder, official=True) for name in left_out)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([["ISIC_0000001", "ISIC_7"], ["ISIC_8", "ISIC_9"]], "names of no image of the ground truth: ISIC_8, ISIC_7"),
        ([["ISIC_0000001", "ISIC_0000003"]], "pairs that differ in patient_id: ISIC_0000001"),
        ([["ISIC_0000001", "ISIC_0000002"]], "pairs that differ in target: ISIC_0000001"),
    ],
)
def test_duplicates_must_be_of_one_patient_and_target(folder: Path, pairs: list[list[str]], problem: str) -> None:
    write_table(folder / release.DUPLICATES_CSV, release.DUPLICATES_COLUMNS, pairs)
    message = refusal_of(folder)
    assert message.startswith(f"{folder / release.DUPLICATES_CSV}: ")
    assert problem in message


def test_a_test_image_may_not_be_a_training_image(folder: Path) -> None:
    write_table(folder / release.TEST_CSV, release.TEST_COLUMNS, [*TEST, ["ISIC_0000001", *TEST[0][1:]]])
    assert "Metadata.csv: test images that are training images too: ISIC_0000001" in refusal_of(folder)


@pytest.mark.parametrize("name", [release.TRAIN_ZIP, release.TEST_ZIP])
def test_images_and_tables_must_name_each_other(folder: Path, name: str) -> None:
    inside = release.TRAIN_FOLDER if name == release.TRAIN_ZIP else release.TEST_FOLDER
    write_zip(folder / name, inside, ["ISIC_0000099"])
    message = refusal_of(folder)
    n = len(TRUTH) if name == release.TRAIN_ZIP else len(TEST)
    assert f"{name}: lacks {n} of {n} images: {inside}ISIC_000000" in message
    assert f"has 1 images that are not in the table: {inside}ISIC_0000099.jpg" in message


def test_the_official_release_has_known_counts(folder: Path) -> None:
    assert refusal_of(folder, official=True).splitlines() == [
        f"{folder}: train: 4 images, expected 33,126",
        "train: 1 melanomas, expected 584",
        "train: 2 patients, expected 2,056",
        "train: 1 duplicate pairs, expected 425",
        "test: 2 images, expected 10,982",
        f"{release.TRUTH_CSV}: 368 bytes (line ends counted as one), expected 2,354,291",
        f"{release.TEST_CSV}: 118 bytes (line ends counted as one), expected 468,938",
        "not the official release: delete the wrong file and run 'dvc repro download'",
    ]


def test_the_older_ground_truth_is_held_to_the_official_counts_alone(folder: Path) -> None:
    write_truth_v1(folder)
    message = refusal_of(folder, official=True)
    assert "train: 4 images, expected 33,126" in message and "GroundTruth" not in message


def corrupt(path: Path) -> None:
    """Change one byte of the last image, and nothing that a directory tells."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"ISIC", 0, data.index(b"PK\x01\x02"))] ^= 1
    path.write_bytes(data)


def test_contents_are_read_once_and_again_when_the_file_changes(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    verify(folder)
    assert "checking" in capfd.readouterr().err
    verify(folder)
    assert capfd.readouterr().err == ""
    corrupt(folder / release.TRAIN_ZIP)
    assert "1 broken images: train/ISIC_0000004.jpg (Bad CRC-32" in refusal_of(folder)


def test_touched_but_equal_bytes_are_hashed_and_not_read_again(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verify(folder)
    capfd.readouterr()
    os.utime(folder / release.TRAIN_ZIP)
    verify(folder)
    printed = capfd.readouterr().err
    assert "hashing" in printed
    assert "checking" not in printed


def test_a_whole_but_different_zip_is_mentioned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    verify(folder)
    assert caplog.text == ""
    with zipfile.ZipFile(folder / release.TRAIN_ZIP, "a") as archive:
        archive.writestr("another note.txt", "")
    with caplog.at_level(logging.WARNING):
        assert verify(folder) == COUNTS
    assert "whole, but not the bytes that were verified before (SHA-256 now " in caplog.text


@pytest.mark.parametrize("record", ["", "{", "[]", '{"a": 1}'])
def test_a_damaged_record_costs_only_another_pass(folder: Path, record: str) -> None:
    (folder.parent / "verified.json").write_text(record)
    assert verify(folder) == COUNTS
    assert sorted(json.loads((folder.parent / "verified.json").read_text()))[-1].endswith(release.TRAIN_ZIP)


def test_a_zip_that_failed_is_not_remembered(folder: Path) -> None:
    corrupt(folder / release.TRAIN_ZIP)
    assert refusal_of(folder) == refusal_of(folder)


def test_a_copy_has_a_twin_only_while_the_original_is_there(folder: Path, tmp_path: Path) -> None:
    verify(folder)
    record, original, copy = tmp_path / "verified.json", folder / release.TRAIN_ZIP, tmp_path / release.TRAIN_ZIP
    copy.write_bytes(original.read_bytes())
    assert not has_verified_twin(copy, record)
    os.utime(copy, ns=(0, original.stat().st_mtime_ns))
    assert has_verified_twin(copy, record)
    with zipfile.ZipFile(original, "a") as archive:
        archive.writestr("another note.txt", "")
    assert not has_verified_twin(copy, record)
    copy.write_bytes(original.read_bytes())
    os.utime(copy, ns=(0, original.stat().st_mtime_ns))
    assert not has_verified_twin(copy, record)  # of bytes that were never verified
    verify(folder)
    assert has_verified_twin(copy, record)
    original.unlink()
    assert not has_verified_twin(copy, record)


@needs_shared
def test_the_real_subset_passes(tmp_path: Path) -> None:
    counts = verify_release(SHARED / "isic2020-subset", tmp_path / "verified.json")
    train = {"images": 857, "melanomas": 442, "patients": 588, "duplicate_pairs": 3}
    assert counts == {"train": train, "test": {"images": 1}}


@needs_shared
def test_camera_originals_without_a_test_part_pass(tmp_path: Path) -> None:
    counts = verify_release(SHARED / "fullsize-cc0", tmp_path / "verified.json")
    assert counts["train"]["images"] == 97 and counts["train"]["melanomas"] == 40 and counts["test"] == {"images": 0}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Link the official tables, and make zips of the official names around stand-ins for the images."""
    folder = tmp_path_factory.mktemp("isic2020")
    for name in (release.TRUTH_CSV, release.DUPLICATES_CSV, release.TEST_CSV):
        (folder / name).write_bytes((SHARED / "isic2020-csv" / name).read_bytes())
    for name, inside, table in (
        (release.TRAIN_ZIP, release.TRAIN_FOLDER, release.TRUTH_CSV),
        (release.TEST_ZIP, release.TEST_FOLDER, release.TEST_CSV),
    ):
        write_zip(folder / name, inside, [line.split(",")[0] for line in (folder / table).read_text().splitlines()[1:]])
    return folder


@needs_shared
@pytest.mark.parametrize("edit", [lambda text: text, lambda text: text.replace("\n", "\r\n")], ids=["LF", "CRLF"])
def test_the_complete_official_tables_pass_as_the_official_release(official: Path, edit: Callable[[str], str]) -> None:
    for name in (release.TRUTH_CSV, release.DUPLICATES_CSV, release.TEST_CSV):
        (official / name).write_bytes(edit((official / name).read_text()).encode())
    counts = verify(official, official=True)
    train = {"images": 33_126, "melanomas": 584, "patients": 2_056, "duplicate_pairs": 425}
    assert counts == {"train": train, "test": {"images": 10_982}}


@needs_shared
def test_one_lost_official_row_is_noticed_everywhere(official: Path) -> None:
    path = official / release.DUPLICATES_CSV
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"ISIC_", 0, -15)].rstrip())
    try:
        assert "train: 424 duplicate pairs, expected 425" in refusal_of(official, official=True)
    finally:
        path.write_bytes(whole)
