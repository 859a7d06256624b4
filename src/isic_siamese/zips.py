"""The zips of a release, hostile until proven otherwise: their directories, then every member's bytes."""

import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import pairwise
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from isic_siamese.release import naming, reading, refuse, some

MAX_MEMBER_BYTES = 64 << 20  # the largest JPEG of ISIC 2020 is about 10 MB
CHUNK = 1 << 20  # bytes read at a time
ENCRYPTED = 0x1 | 0x40  # flag bits of a member: encrypted, strongly encrypted
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
ANOTHER = "put a whole copy in its place; if it was downloaded, delete it and fetch it again"

# What zipfile and zlib raise on broken bytes; found by fuzzing (tests/test_zips.py).
_BROKEN = (BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, struct.error)


def read_directory(path: Path, folder: str, names: Iterable[str]) -> list[ZipInfo]:
    """Read and check the central directory of a zip that should hold `<folder><name>.jpg` for each of `names`.

    Other members are ignored, unless they are hostile: the official test zip has some, and macOS adds some.

    Returns:
        The JPEG members, in the order of the file.

    Raises:
        DataError: no zip, a hostile member, or JPEGs other than `names`; all problems are in the one message.
    """
    with reading(path, _BROKEN, "not a whole zip", ANOTHER), ZipFile(path) as archive:
        members = archive.infolist()
    jpegs = [member for member in members if _is_jpeg(PurePosixPath(member.filename))]
    wanted = {f"{folder}{name}.jpg" for name in names}
    found = {member.filename for member in jpegs}
    lacks, strange = sorted(wanted - found), sorted(found - wanted)
    problems = [
        *_hostile(members),
        *naming(f"lacks {len(lacks):,} of {len(wanted):,} images", lacks),
        *naming(f"has {len(strange):,} images that are not in the table", strange),
    ]
    advice = f"mend the table, or {ANOTHER}"
    if wanted and wanted.isdisjoint(found):
        advice = f"wanted names like {min(wanted)}; pack the images again under such names, or mend the table"
    refuse(path, problems, advice)
    return jpegs


def _is_jpeg(name: PurePosixPath) -> bool:
    is_of_macos = "__MACOSX" in name.parts or name.name.startswith("._")  # what its archiver adds to each file
    return name.suffix.lower() in (".jpg", ".jpeg") and not is_of_macos


def _hostile(members: Sequence[ZipInfo]) -> list[str]:
    """Say what no honest zip of images would hold, a line a kind."""
    checks: dict[str, Callable[[ZipInfo], object]] = {
        "member name that is absolute, or has '..', a backslash, a colon or a NUL": _has_bad_name,
        "link or device": lambda member: stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR),
        "encrypted member": lambda member: member.flag_bits & ENCRYPTED,
        "archive within the archive": lambda member: PurePosixPath(member.filename).suffix.lower() in ARCHIVES,
        "compression other than stored or deflated": lambda member: (
            member.compress_type not in (ZIP_STORED, ZIP_DEFLATED)
        ),
        "stored member of two sizes": lambda member: (
            member.compress_type == ZIP_STORED and member.compress_size != member.file_size
        ),
        f"member over {MAX_MEMBER_BYTES >> 20} MiB": lambda member: (
            max(member.file_size, member.compress_size) > MAX_MEMBER_BYTES
        ),
    }
    found = {kind: [member.filename for member in members if is_bad(member)] for kind, is_bad in checks.items()}
    # Case is folded because macOS and Windows would write such two members into one file.
    times = Counter(member.filename.casefold() for member in members)
    twice = [member.filename for member in members if times[member.filename.casefold()] > 1]
    found["two members of one name"] = list(dict.fromkeys(twice))
    found["overlapping members"] = _overlapping(members)
    return [f"{kind}: {some([repr(name[:80]) for name in names])}" for kind, names in found.items() if names]


def _has_bad_name(member: ZipInfo) -> bool:
    name = member.orig_filename  # zipfile cuts `filename` at the first NUL
    return "\0" in name or "\\" in name or name.startswith("/") or ":" in name or ".." in name.split("/")


def _overlapping(members: Sequence[ZipInfo]) -> list[str]:
    """Name the members whose bytes reach into the next one's: how a small zip holds terabytes."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    return [a.filename for a, b in pairwise(ordered) if a.header_offset + 30 + a.compress_size > b.header_offset]


def check_contents(path: Path, members: Sequence[ZipInfo]) -> None:
    """Read every member against its CRC and its stated size, on all cores, with a progress bar.

    Threads suffice: reading, inflating and the CRC leave Python's lock alone.

    Raises:
        DataError: some are broken; the first few are named.
    """
    with ZipFile(path) as archive, ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = pool.map(lambda member: _content_problem(archive, member), members)
        bar = tqdm(answers, f"checking {path.name}", len(members), unit="image")
        broken = [f"{member.filename} ({answer})" for member, answer in zip(members, bar, strict=True) if answer]
    refuse(path, naming(f"{len(broken):,} broken images", broken), ANOTHER)


def _content_problem(archive: ZipFile, member: ZipInfo) -> str:
    """Say what is wrong with the bytes of a member, "" if nothing is."""
    longer = copy(member)
    longer.file_size += 1  # ask for a byte more than stated: zipfile would quietly stop at the stated size
    n_bytes = 0
    try:
        with archive.open(longer) as content:
            while chunk := content.read(CHUNK):
                n_bytes += len(chunk)
    except _BROKEN as error:
        return str(error) or type(error).__name__
    return "" if n_bytes == member.file_size else f"{n_bytes:,} bytes or more, stated {member.file_size:,}"
