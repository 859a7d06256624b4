"""data/raw only ever holds one release, and nothing is lost when that changes."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.raw import find_release, link_or_copy, link_release, only_copies
from isic_siamese.verification import verify_release
from tests.release_folder import TRUTH, contents, write_release, write_truth_v1, write_zip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_release(tmp_path / "one")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "data/raw"


def link(folder: Path, raw: Path) -> None:
    record = raw.parent / "releases/verified.json"
    only = only_copies(raw, record)
    verify_release(folder, record)
    link_release(folder, raw, record.parent, only)


def test_raw_holds_links_to_exactly_the_five_files(folder: Path, raw: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    link(folder, raw)
    assert sorted(path.name for path in raw.iterdir()) == sorted(release.FILES)
    assert all((raw / name).samefile(folder / name) for name in release.FILES)
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw", "releases"]


def test_switching_back_and_forth_leaves_every_release_as_it_was(folder: Path, raw: Path, tmp_path: Path) -> None:
    other = write_release(tmp_path / "other")
    (other / release.DUPLICATES_CSV).write_text("image_name_1,image_name_2\n")
    before = contents(folder), contents(other)
    for source in (folder, other, folder, folder, other):
        link(source, raw)
        assert contents(raw) == contents(source)
    assert (contents(folder), contents(other)) == before


def test_what_is_left_out_is_there_without_content_and_is_nothing_to_keep(folder: Path, raw: Path) -> None:
    whole = contents(folder)
    for name in release.EMPTY:
        (folder / name).unlink()
    for _ in range(2):
        link(folder, raw)
        assert contents(raw) == whole | release.EMPTY
    assert release.read_duplicates(raw / release.DUPLICATES_CSV).empty
    assert release.read_test_metadata(raw / release.TEST_CSV).empty
    with zipfile.ZipFile(raw / release.TEST_ZIP) as archive:
        assert archive.namelist() == []
    assert sorted(path.name for path in (raw.parent / "releases").iterdir()) == ["verified.json"]


def test_the_older_ground_truth_is_stored_in_the_newer_form(folder: Path, raw: Path) -> None:
    write_truth_v1(folder)
    link(folder, raw)
    assert sorted(path.name for path in raw.iterdir()) == sorted(release.FILES)
    table = release.read_truth(raw / release.TRUTH_CSV)
    assert table.astype({"target": str}).to_numpy().tolist() == [[*row[:2], "", *row[3:]] for row in TRUTH]
    assert (raw / release.TRUTH_CSV).read_text().startswith(",".join(release.TRUTH_COLUMNS) + "\n")


def test_leftovers_of_a_killed_run_do_not_matter(folder: Path, raw: Path) -> None:
    for name in (".raw.new", ".raw.old"):
        write_release(raw.with_name(name))
    link(folder, raw)
    assert contents(raw) == contents(folder)
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw", "releases"]


def test_a_folder_that_was_made_read_only_is_replaced_again_and_again(folder: Path, raw: Path) -> None:
    for _ in range(3):  # shows nothing to root, whom no mode stops
        link(folder, raw)
        raw.chmod(0o555)
        assert sorted(path.name for path in raw.parent.iterdir()) == ["raw", "releases"]
    raw.chmod(0o755)


def test_what_cannot_be_deleted_is_not_passed_over(folder: Path, raw: Path) -> None:
    raw.parent.mkdir()
    raw.with_name(".raw.old").write_text("no folder")
    with pytest.raises(NotADirectoryError):
        link(folder, raw)


def test_what_a_user_put_into_raw_is_moved_and_not_deleted(
    folder: Path, raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_release(raw)
    with (raw / release.TRUTH_CSV).open("a") as table:
        table.write("ISIC_0000009,IP_0000009,,,,,unknown,benign,0\n")  # so that no file of it is one of the release
    with (raw / release.DUPLICATES_CSV).open("a") as table:
        table.write("ISIC_0000002,ISIC_0000009\n")
    (raw / release.TEST_CSV).write_bytes(release.EMPTY[release.TEST_CSV])  # no content to keep
    for name in (release.TRAIN_ZIP, release.TEST_ZIP):
        write_zip(raw / name, "mine/", ["ISIC_0000009"])
    (raw / "labels.csv").write_text("ISIC_0000001,naevus\n")
    (raw / "notes").mkdir()
    (raw / "notes/day.txt").write_text("looked at 40")
    (raw / ".DS_Store").write_bytes(b"of macOS")
    (raw / "elsewhere").symlink_to(folder)
    own = contents(raw, "**/*")
    link(folder, raw)
    assert contents(raw) == contents(folder)
    kept = contents(raw.parent, "releases/found-*/**/*")
    assert kept == {name: own[name] for name in own if name not in (release.TEST_CSV, ".DS_Store")}
    (aside,) = raw.parent.glob("releases/found-*")
    assert (
        f"moved {release.TEST_ZIP}, {release.DUPLICATES_CSV}, {release.TRUTH_CSV} and 3 more to {aside}" in caplog.text
    )


def test_what_a_user_puts_into_raw_while_a_release_is_fetched_is_moved_too(folder: Path, raw: Path) -> None:
    link(folder, raw)
    only = only_copies(raw, raw.parent / "releases/verified.json")
    (raw / "labels.csv").write_text("ISIC_0000001,naevus\n")
    link_release(folder, raw, raw.parent / "releases", only)
    assert contents(raw) == contents(folder)
    assert contents(raw.parent, "releases/found-*/*") == {"labels.csv": b"ISIC_0000001,naevus\n"}


def test_what_is_moved_never_takes_the_place_of_what_was_moved_before(folder: Path, raw: Path) -> None:
    for text in ("first", "second"):
        link(folder, raw)
        (raw / "labels.csv").write_text(text)
        os.utime(raw / "labels.csv", (0, 0))
        link(folder, raw)
    found = raw.parent.glob("releases/found-*/labels.csv")
    assert sorted(path.read_text() for path in found) == ["first", "second"]


def test_an_edited_copy_of_the_size_and_time_of_its_original_is_moved_too(
    folder: Path, raw: Path, tmp_path: Path
) -> None:
    verify_release(folder, raw.parent / "releases/verified.json")
    for other in (write_release(tmp_path / "other"), folder):
        shutil.rmtree(raw, ignore_errors=True)
        shutil.copytree(folder, raw)
        table = raw / release.TRUTH_CSV
        facts = table.stat()
        table.write_text(table.read_text().replace("unknown", "naevus_"))
        os.utime(table, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        link(other, raw)
    found = list(raw.parent.glob(f"releases/found-*/{release.TRUTH_CSV}"))
    assert len(found) == 2 and all("naevus_" in path.read_text() for path in found)


def test_a_file_in_the_place_of_raw_is_refused_and_stays(folder: Path, raw: Path) -> None:
    raw.parent.mkdir()
    raw.write_text("mine")
    with pytest.raises(DataError, match=r"data/raw: a file, wanted a folder or nothing; move it out of there"):
        link(folder, raw)
    assert raw.read_text() == "mine"


def test_a_ground_truth_that_was_converted_is_no_file_of_the_user(folder: Path, raw: Path, tmp_path: Path) -> None:
    write_truth_v1(folder)
    for source in (folder, folder, write_release(tmp_path / "other"), folder):
        link(source, raw)
    assert not list(raw.parent.glob("releases/found-*"))


def test_raw_itself_may_be_the_release(folder: Path, raw: Path) -> None:
    for path in write_release(raw).glob("*.zip"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("notes.txt", "so that it is not the one of the other release")
    own = contents(raw)
    link(raw, raw)
    assert contents(raw) == own and not list(raw.parent.glob("releases/found-*"))
    link(folder, raw)
    assert contents(raw.parent, "releases/found-*/*").keys() == {release.TRAIN_ZIP, release.TEST_ZIP}, "the only copies"


def test_a_release_inside_raw_is_refused_and_stays(raw: Path) -> None:
    inside = write_release(raw / "mine")
    (inside / "labels.xlsx").write_text("mine")
    before = contents(inside)
    with pytest.raises(DataError, match=r"release: .*mine is inside .*raw, which is made anew; move it out of there"):
        link(inside, raw)
    assert contents(inside) == before


def test_a_copy_goes_when_its_original_is_in_its_place(folder: Path, raw: Path, tmp_path: Path) -> None:
    verify_release(folder, raw.parent / "releases/verified.json")
    shutil.copytree(folder, raw)
    link(write_release(tmp_path / "other"), raw)
    assert not list(raw.parent.glob("releases/found-*"))


def test_where_no_link_can_be_a_copy_is_made(folder: Path, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    target = shared / f"isic-siamese-test-{os.getpid()}.zip"
    try:
        link_or_copy(folder / release.TRAIN_ZIP, target)
        assert target.read_bytes() == (folder / release.TRAIN_ZIP).read_bytes()
        assert target.stat().st_mtime_ns == (folder / release.TRAIN_ZIP).stat().st_mtime_ns
    finally:
        target.unlink(missing_ok=True)


def test_a_file_that_cannot_be_had_leaves_raw_alone(folder: Path, raw: Path) -> None:
    link(folder, raw)
    before = contents(raw)
    broken = shutil.copytree(folder, folder.with_name("broken"))
    (broken / release.TEST_ZIP).unlink()
    with pytest.raises(DataError, match=r"Test_JPEG\.zip: cannot copy .*: No such file or directory; mend that"):
        link_release(broken, raw, raw.parent / "releases")
    assert contents(raw) == before
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw", "releases"], "nothing half written"


def test_raw_may_be_a_symlink_to_another_disk_and_stays_one(folder: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    raw.parent.mkdir()
    raw.symlink_to(tmp_path / "big")
    for _ in range(2):
        link(folder, raw)
        assert raw.is_symlink() and contents(raw) == contents(folder)
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw", "releases"]


def test_links_of_a_symlink_reach_its_file(folder: Path, raw: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in release.FILES:
        (linked / name).symlink_to(folder / name)
    link(linked, raw)
    assert all(stat.S_ISREG((raw / name).lstat().st_mode) for name in release.FILES)


def test_a_relative_release_starts_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_release("one") == folder
    with pytest.raises(DataError) as refusal:
        find_release("none")
    assert str(refusal.value) == (
        f"params.yaml: release: 'none' names no folder ({tmp_path}/none is none); "
        "wanted demo, isic2020 or a folder that holds a release"
    )
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    with pytest.raises(DataError, match=r"release: 'a' names no folder"):
        find_release("a")
    with pytest.raises(DataError, match=r"release: '~nobody-of-that-name/x' names no folder"):
        find_release("~nobody-of-that-name/x")
