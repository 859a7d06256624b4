"""Zips that are broken or mean harm."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isic_siamese.errors import DataError
from isic_siamese.zips import check_contents, read_directory
from tests.release_folder import content, write_zip

NAMES = ["ISIC_1", "ISIC_2", "ISIC_3"]
BAD_NAME = "member name that is absolute, or has '..', a backslash, a colon or a NUL"


def check(path: Path) -> None:
    check_contents(path, read_directory(path, "train/", NAMES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_zip(tmp_path / "a.zip", "train/", NAMES)
    return tmp_path / "a.zip"


def test_a_good_zip_passes_with_its_members_in_order(path: Path) -> None:
    members = read_directory(path, "train/", NAMES)
    assert [member.filename for member in members] == ["train/ISIC_1.jpg", "train/ISIC_2.jpg", "train/ISIC_3.jpg"]
    check_contents(path, members)


def test_a_deflated_zip_passes(path: Path) -> None:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.mkdir("train")
        for name in NAMES:
            archive.writestr(f"train/{name}.jpg", content(name))
    check(path)


def test_what_macos_adds_to_a_zip_is_ignored_unless_it_is_hostile(path: Path) -> None:
    with ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/train/._ISIC_1.jpg", b"no JPEG")
        archive.writestr("train/._ISIC_2.JPG", b"no JPEG")
        archive.writestr("__MACOSX/train/ISIC_3.jpg", b"no JPEG")
    check(path)
    with ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/../._ISIC_4.jpg", b"harm")
    with pytest.raises(DataError, match=f"{BAD_NAME}: '__MACOSX/../._ISIC_4.jpg'"):
        check(path)


def test_names_are_compared_in_both_directions(path: Path) -> None:
    with pytest.raises(DataError) as refusal:
        read_directory(path, "train/", ["ISIC_1", *(f"ISIC_9{i}" for i in range(5))])
    assert str(refusal.value).splitlines() == [
        f"{path}: lacks 5 of 6 images: train/ISIC_90.jpg, train/ISIC_91.jpg, train/ISIC_92.jpg and 2 more",
        "has 2 images that are not in the table: train/ISIC_2.jpg, train/ISIC_3.jpg",
        "mend the table, or put a whole copy in its place; if it was downloaded, delete it and fetch it again",
    ]


@pytest.mark.parametrize("names", [["ISIC_1", "ISIC_2", "ISIC_3"], []])
def test_a_zip_of_none_of_the_images_is_to_be_packed_anew_and_not_fetched(path: Path, names: list[str]) -> None:
    write_zip(path, "jpeg/train/", names)
    with pytest.raises(DataError) as refusal:
        check(path)
    assert str(refusal.value).splitlines()[-1] == (
        "wanted names like train/ISIC_1.jpg; pack the images again under such names, or mend the table"
    )


def member(name: str, mode: int = 0, compression: int = zipfile.ZIP_STORED) -> ZipInfo:
    info = ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = compression
    return info


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (member("/etc/cron.d/x.txt"), f"{BAD_NAME}: '/etc/cron.d/x.txt'"),
        (member("train/../../x.txt"), f"{BAD_NAME}: 'train/../../x.txt'"),
        (member("C:/x.txt"), f"{BAD_NAME}: 'C:/x.txt'"),
        (member("..\\x.txt"), rf"{BAD_NAME}: '..\\x.txt'"),
        (member("link", stat.S_IFLNK | 0o777), "link or device: 'link'"),
        (member("device", stat.S_IFCHR), "link or device: 'device'"),
        (member("train/more.zip"), "archive within the archive: 'train/more.zip'"),
        (member("train/more.TAR"), "archive within the archive: 'train/more.TAR'"),
        (member("note", compression=ZIP_BZIP2), "compression other than stored or deflated: 'note'"),
        (member("TRAIN/isic_1.jpg"), "two members of one name: 'train/ISIC_1.jpg', 'TRAIN/isic_1.jpg'"),
        (member("train/ISIC_4.jpg"), "has 1 images that are not in the table: train/ISIC_4.jpg"),
    ],
    ids=lambda value: value.filename if isinstance(value, ZipInfo) else "",
)
def test_a_member_that_no_honest_zip_has_is_refused(path: Path, info: ZipInfo, problem: str) -> None:
    with ZipFile(path, "a") as archive:
        archive.writestr(info, b"harm")
    with pytest.raises(DataError) as refusal:
        check(path)
    assert problem in str(refusal.value)


def test_a_name_with_a_nul_is_refused(path: Path) -> None:
    with ZipFile(path, "a") as archive:
        archive.writestr("train/ISIC_0.jpgXsh", b"harm")
    path.write_bytes(path.read_bytes().replace(b"ISIC_0.jpgXsh", b"ISIC_0.jpg\0sh"))
    with pytest.raises(DataError, match=f"{BAD_NAME}: 'train/ISIC_0.jpg"):
        check(path)


def test_two_members_of_one_name_are_refused(path: Path) -> None:
    with ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train/ISIC_1.jpg", b"another")
    with pytest.raises(DataError, match=r"two members of one name: 'train/ISIC_1\.jpg'\n"):
        check(path)


def patch_entry(path: Path, offset: int, form: str, value: Callable[[int], int]) -> None:
    """Change a field of the first member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    struct.pack_into(form, data, at, value(struct.unpack_from(form, data, at)[0]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "form", "value", "problem"),
    [
        (8, "<H", lambda flags: flags | 1, "encrypted member: 'train/ISIC_1.jpg'"),
        (24, "<I", lambda n: n + 1, "stored member of two sizes: 'train/ISIC_1.jpg'"),
        (24, "<I", lambda _: 100 << 20, "member over 64 MiB: 'train/ISIC_1.jpg'"),
        (16, "<I", lambda crc: crc ^ 1, "1 broken images: train/ISIC_1.jpg (Bad CRC-32 for file 'train/ISIC_1.jpg')"),
    ],
    ids=["encrypted", "two sizes", "large", "checksum"],
)
def test_a_dishonest_directory_is_refused(
    path: Path, offset: int, form: str, value: Callable[[int], int], problem: str
) -> None:
    with ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.writestr(f"train/{name}.jpg", content(name))
    patch_entry(path, offset, form, value)
    with pytest.raises(DataError) as refusal:
        check(path)
    assert problem in str(refusal.value)


@pytest.mark.parametrize("stated", [10, 99_999, 100_001])
@pytest.mark.parametrize("honest_crc", [True, False])
def test_a_member_that_expands_to_other_than_its_stated_size_is_refused(
    path: Path, stated: int, honest_crc: bool
) -> None:
    body = bytes(100_000)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name in NAMES:
            archive.writestr(f"train/{name}.jpg", body)
    patch_entry(path, 24, "<I", lambda _: stated)
    if not honest_crc:  # one that fits what a trusting reader would take
        patch_entry(path, 16, "<I", lambda _: zlib.crc32(body[:stated]))
    with pytest.raises(DataError, match=r"1 broken images: train/ISIC_1\.jpg \("):
        check(path)


def test_overlapping_members_are_refused(path: Path) -> None:
    with ZipFile(path) as archive:
        second = archive.infolist()[2].header_offset
    patch_entry(path, 42, "<I", lambda _: second)
    with pytest.raises(DataError, match=r"overlapping members: 'train/"):
        check(path)


def test_a_directory_may_list_the_members_in_any_order(path: Path) -> None:
    with ZipFile(path, "a") as archive:
        archive.writestr("note.txt", "the last one")
        archive.filelist.reverse()
    check(path)


@pytest.mark.parametrize("keep", [0, 10, -10, -200])
def test_a_truncated_zip_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"a\.zip: not a whole zip: .*; put a whole copy in its place; if it was downloaded, delete"
    ):
        check(path)


def test_an_absent_zip_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.zip: no such file; run 'dvc repro download'"):
        check(tmp_path / "b.zip")


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    deflated=st.booleans(),
    start=st.integers(0, 2_000),
    n_removed=st.integers(0, 30),
    added=st.binary(max_size=30),
    truncated=st.integers(0, 30),
)
@example(deflated=False, start=0, n_removed=0, added=b"", truncated=0)
def test_a_corrupted_zip_is_refused_or_still_holds_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, deflated: bool, start: int, n_removed: int, added: bytes, truncated: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    with ZipFile(path, "w", ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name in NAMES:
            archive.writestr(f"train/{name}.jpg", content(name)[:200])
    data = path.read_bytes()
    start %= len(data)
    data = data[:start] + added + data[start + n_removed :]
    path.write_bytes(data[: len(data) - truncated])
    try:
        check(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
        return
    with ZipFile(path) as archive:
        assert all(archive.read(f"train/{name}.jpg") == content(name)[:200] for name in NAMES)
