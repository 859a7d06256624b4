"""A tiny release on disk, right in everything, for tests to break."""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from isic_siamese import release

TRUTH = [
    ["ISIC_0000001", "IP_0000001", "IL_0000001", "male", "45", "torso", "unknown", "benign", "0"],
    ["ISIC_0000002", "IP_0000001", "IL_0000002", "male", "45.0", "", "melanoma", "malignant", "1"],
    ["ISIC_0000003", "IP_0000002", "IL_0000003", "", "", "torso", "nevus", "benign", "0"],
    ["ISIC_0000004", "IP_0000002", "IL_0000003", "female", "50", "torso", "nevus", "benign", "0"],
]
DUPLICATES = [["ISIC_0000003", "ISIC_0000004"]]
TEST = [["ISIC_0000005", "IP_0000009", "70", "", "male"], ["ISIC_0000006", "IP_0000009", "", "torso", "male"]]


def content(name: str) -> bytes:
    """Return what stands for the JPEG of an image here: its bytes are nobody's business before the shards."""
    return name.encode() * 100


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], line_end: str = "\n") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=line_end).writerows([columns, *rows])


def write_zip(path: Path, folder: str, names: Sequence[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}ATTRIBUTION.txt", "not a JPEG, as the official test zip has")
        for name in names:
            archive.writestr(f"{folder}{name}.jpg", content(name))


def write_release(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / release.TRUTH_CSV, release.TRUTH_COLUMNS, TRUTH)
    write_table(folder / release.DUPLICATES_CSV, release.DUPLICATES_COLUMNS, DUPLICATES)
    write_table(folder / release.TEST_CSV, release.TEST_COLUMNS, TEST)
    write_zip(folder / release.TRAIN_ZIP, release.TRAIN_FOLDER, [row[0] for row in TRUTH])
    write_zip(folder / release.TEST_ZIP, release.TEST_FOLDER, [row[0] for row in TEST])
    return folder


def write_truth_v1(folder: Path) -> None:
    """Put the older ground truth, without lesion_id, in the place of the newer."""
    (folder / release.TRUTH_CSV).unlink()
    columns = [name for name in release.TRUTH_COLUMNS if name != "lesion_id"]
    write_table(folder / release.TRUTH_V1_CSV, columns, [row[:2] + row[3:] for row in TRUTH], "\r\n")
