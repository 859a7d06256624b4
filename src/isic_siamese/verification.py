"""Whether five files are one whole release: each table, each zip, and all of them against each other."""

import filecmp
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from pydantic import BaseModel
from tqdm import tqdm

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.files import read_json, write_json
from isic_siamese.release import naming, refuse
from isic_siamese.zips import CHUNK, check_contents, read_directory

# The official release, as its organisers describe it (Rotemberg et al. 2021) and as its files are.
OFFICIAL_COUNTS = {
    "train": {"images": 33_126, "melanomas": 584, "patients": 2_056, "duplicate_pairs": 425},
    "test": {"images": 10_982},
}
OFFICIAL_BYTES = {release.TRUTH_CSV: 2_354_291, release.TEST_CSV: 468_938}  # with line feeds and one at the end
# What does where a file is not to be had.
INSTEAD = {
    release.TRUTH_CSV: f"{release.TRUTH_V1_CSV} is as good, and so is Kaggle's train.csv under that name",
    release.TEST_CSV: f"without unlabelled images leave out {release.TEST_ZIP}, too",
    release.TEST_ZIP: f"without unlabelled images leave out {release.TEST_CSV}, too",
}

log = logging.getLogger(__name__)


class Entry(BaseModel):
    """What is remembered of a zip whose every member was read against its CRC."""

    n_bytes: int
    mtime_ns: int
    sha256: str


def release_paths(folder: Path) -> dict[str, Path]:
    """Return where `folder` should have each of `release.FILES`; a ground truth v1 stands in where there is no v2."""
    paths = {name: folder / name for name in release.FILES}
    v1 = folder / release.TRUTH_V1_CSV
    if v1.exists() and not paths[release.TRUTH_CSV].exists():
        paths[release.TRUTH_CSV] = v1
    return paths


def missing_files(folder: Path) -> list[str]:
    """Return which of `release.FILES` the `folder` lacks."""
    return [name for name, path in release_paths(folder).items() if not path.is_file()]


def left_out(folder: Path) -> list[str]:
    """Return what `folder` may do without, and does: the duplicates, and the test part if both its files are absent."""
    # A link that leads nowhere is not left out, but broken.
    missing = [name for name, path in release_paths(folder).items() if not os.path.lexists(path)]
    without_test = {release.TEST_CSV, release.TEST_ZIP} <= {*missing}
    return [name for name in missing if name == release.DUPLICATES_CSV or (name in release.EMPTY and without_test)]


def verify_release(folder: Path, record: Path, official: bool = False) -> dict[str, dict[str, int]]:
    """Verify the release in `folder`, and remember in `record` the zips that passed, so that the next time is instant.

    Args:
        folder: holds the five files, but for those that may be left out; they are only read.
        record: JSON of absolute path to `Entry`.
        official: hold it to the counts of the official release too.

    Returns:
        The counts: images, melanomas, patients, duplicate pairs; and test images.

    Raises:
        DataError: a file is absent or wrong; all problems are in the one message.
    """
    absent = [] if official else left_out(folder)
    _require_files(folder, absent, [release.TRUTH_CSV] if official else list(INSTEAD))
    truth = release.read_truth(release_paths(folder)[release.TRUTH_CSV])
    duplicates, test = pd.DataFrame(columns=release.DUPLICATES_COLUMNS), pd.DataFrame(columns=release.TEST_COLUMNS)
    if release.DUPLICATES_CSV not in absent:
        duplicates = release.read_duplicates(folder / release.DUPLICATES_CSV)
    if release.TEST_CSV not in absent:
        test = release.read_test_metadata(folder / release.TEST_CSV)
    refuse(folder / release.DUPLICATES_CSV, _duplicate_problems(truth, duplicates))
    both = test.loc[test["image"].isin(truth["image_name"]), "image"]
    refuse(folder / release.TEST_CSV, naming("test images that are training images too", both))
    counts = {
        "train": {
            "images": len(truth),
            "melanomas": int(truth["target"].sum()),
            "patients": int(truth["patient_id"].nunique()),
            "duplicate_pairs": len(duplicates),
        },
        "test": {"images": len(test)},
    }
    if official:
        _require_official(folder, counts)
    if release.TEST_ZIP not in absent:
        _verify_zip(folder / release.TEST_ZIP, release.TEST_FOLDER, test["image"], record)
    _verify_zip(folder / release.TRAIN_ZIP, release.TRAIN_FOLDER, truth["image_name"], record)
    return counts


def has_verified_twin(path: Path, record: Path) -> bool:
    """Whether the file that `path` was copied from is still in its place, in a release that `record` knows.

    A zip must be the one that was verified there; of the tables nothing is recorded, so their bytes are compared.
    """
    facts, entries = _facts(path), _read_record(record)
    zips = [Path(key) for key, entry in entries.items() if facts == (entry.n_bytes, entry.mtime_ns)]
    twins = {zip_.parent / path.name for zip_ in (zips if path.suffix == ".zip" else map(Path, entries))}
    twins = {twin for twin in twins if twin.is_file() and _facts(twin) == facts and not twin.samefile(path)}
    return any(path.suffix == ".zip" or filecmp.cmp(path, twin, shallow=False) for twin in twins)


def _require_files(folder: Path, absent: list[str], replaceable: list[str]) -> None:
    missing = [name for name in missing_files(folder) if name not in absent]
    if absent:
        log.info("%s: taken to have no %s", folder, ", no ".join(absent))
    if missing:
        raise DataError(
            f"{folder}: not a whole release: it lacks {', '.join(missing)}; add what is missing, or set 'release' in "
            "params.yaml to demo, isic2020 or a folder that holds a release"
            + "".join(f"\n{name}: {INSTEAD[name]}" for name in missing if name in replaceable)
        )


def _duplicate_problems(truth: pd.DataFrame, duplicates: pd.DataFrame) -> list[str]:
    """Hold the pairs to what holds of all 425 official ones; 8 of those differ in lesion_id, one in the site."""
    names = pd.concat([duplicates["image_name_1"], duplicates["image_name_2"]])
    problems = naming("names of no image of the ground truth", names[~names.isin(truth["image_name"])])
    images = truth.set_index("image_name")
    for column in ("patient_id", "target"):
        first, second = (duplicates[name].map(images[column]) for name in release.DUPLICATES_COLUMNS)
        differ = (first != second) & first.notna() & second.notna()
        problems += naming(f"pairs that differ in {column}", duplicates.loc[differ, "image_name_1"])
    return problems


def _require_official(folder: Path, counts: dict[str, dict[str, int]]) -> None:
    problems = [
        f"{part}: {counts[part][what]:,} {what.replace('_', ' ')}, expected {expected:,}"
        for part, wanted in OFFICIAL_COUNTS.items()
        for what, expected in wanted.items()
        if counts[part][what] != expected
    ]
    for name, expected in OFFICIAL_BYTES.items():
        if (folder / name).exists():
            n_bytes = len((folder / name).read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n")) + 1
            if n_bytes != expected:
                problems.append(f"{name}: {n_bytes:,} bytes (line ends counted as one), expected {expected:,}")
    refuse(folder, problems, "not the official release: delete the wrong file and run 'dvc repro download'")


def _verify_zip(path: Path, folder: str, names: Iterable[str], record: Path) -> None:
    """Check the directory always, and the contents unless `record` says that these very bytes passed before."""
    members = read_directory(path, folder, names)
    entries = _read_record(record)
    key, known = str(path.resolve()), entries.get(str(path.resolve()))
    n_bytes, mtime_ns = _facts(path)
    if known and (known.n_bytes, known.mtime_ns) == (n_bytes, mtime_ns):
        return
    digest = _sha256(path, n_bytes)
    if not known or known.sha256 != digest:
        check_contents(path, members)
        if known:
            log.warning("%s: whole, but not the bytes that were verified before (SHA-256 now %s)", path, digest)
    entries[key] = Entry(n_bytes=n_bytes, mtime_ns=mtime_ns, sha256=digest)
    write_json(record, {name: entry.model_dump() for name, entry in entries.items()})


def _facts(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _sha256(path: Path, n_bytes: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, tqdm.wrapattr(file, "read", n_bytes, desc=f"hashing {path.name}") as reader:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_record(path: Path) -> dict[str, Entry]:
    try:
        return read_json(path, dict[str, Entry])
    except (FileNotFoundError, ValueError):
        return {}  # losing it only costs another pass
