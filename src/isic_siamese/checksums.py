"""Checksums of files that belong together, so that those of two runs are never mixed unnoticed."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from isic_siamese.errors import DataError, explaining
from isic_siamese.files import read_json, write_json

CHECKSUMS_JSON = "checksums.json"


@dataclass(frozen=True)
class Checksums:
    """What stands in `checksums.json`.

    Attributes:
        model: of the `model.json` that the files were made with, which has that of the weights.
        files: of each file, by its name.
    """

    model: str
    files: dict[str, str]


def checksum(path: Path) -> str:
    """Return the SHA-256 of the file `path`, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, names: Iterable[str], model: Path) -> None:
    """Write those of the files `names` of `folder`, which were made with the model in the folder `model`."""
    sums = Checksums(checksum(model / "model.json"), {name: checksum(folder / name) for name in names})
    write_json(folder / CHECKSUMS_JSON, asdict(sums))


def check_checksums(folder: Path, model: Path, stage: str) -> None:
    """Raise a `DataError` where the files of `folder` are not those that `stage` wrote at once, with this `model`."""
    path = folder / CHECKSUMS_JSON
    with explaining(path, "no checksums of this project", stage):
        wanted = read_json(path, Checksums)
        changed = [name for name, known in wanted.files.items() if checksum(folder / name) != known]
        other_model = checksum(model / "model.json") != wanted.model
    if other_model:
        raise DataError(f"{folder}: made with another model than {model}; run 'dvc repro {stage}'")
    if changed:
        raise DataError(f"{folder / changed[0]}: not what was written with the rest; run 'dvc repro -f {stage}'")
