"""The five files of a release: their official names, and the three tables read and checked."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from isic_siamese.errors import DataError

TRAIN_ZIP = "ISIC_2020_Training_JPEG.zip"
TRUTH_CSV = "ISIC_2020_Training_GroundTruth_v2.csv"
DUPLICATES_CSV = "ISIC_2020_Training_Duplicates.csv"
TEST_ZIP = "ISIC_2020_Test_JPEG.zip"
TEST_CSV = "ISIC_2020_Test_Metadata.csv"
FILES = (TRUTH_CSV, DUPLICATES_CSV, TEST_CSV, TEST_ZIP, TRAIN_ZIP)
TRUTH_V1_CSV = "ISIC_2020_Training_GroundTruth.csv"  # the same without lesion_id; users have either

TRAIN_FOLDER = "train/"  # what each member's name starts with inside TRAIN_ZIP
TEST_FOLDER = "ISIC_2020_Test_Input/"  # and inside TEST_ZIP

TRUTH_COLUMNS = (
    "image_name",
    "patient_id",
    "lesion_id",
    "sex",
    "age_approx",
    "anatom_site_general_challenge",
    "diagnosis",
    "benign_malignant",
    "target",
)
DUPLICATES_COLUMNS = ("image_name_1", "image_name_2")
TEST_COLUMNS = ("image", "patient", "age_approx", "anatom_site_general", "sex")

# What a release may leave out, and what stands for it in `data/raw`: tables without a row, a zip without a member.
EMPTY = {
    DUPLICATES_CSV: f"{','.join(DUPLICATES_COLUMNS)}\n".encode(),
    TEST_CSV: f"{','.join(TEST_COLUMNS)}\n".encode(),
    TEST_ZIP: b"PK\5\6" + bytes(18),
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAME = re.compile(r"\w+", re.ASCII)  # it becomes part of a member's path, so no slash and no dot


def read_truth(path: Path) -> pd.DataFrame:
    """Read a ground truth, v1 or v2, in the order of the file.

    Returns:
        The v2 columns: strings exactly as written, "" where empty (`lesion_id` is all empty for a v1), but
        `target` as int64: 0 benign, 1 malignant.

    Raises:
        DataError: the file is absent or wrong; all its problems are in the one message.
    """
    table = _read_table(path, TRUTH_COLUMNS, optional="lesion_id")
    problems = [
        *_bad_names(table, "image_name", unique=True),
        *_bad_names(table, "patient_id"),
        *_bad_values(table, "sex", {"male", "female", ""}.__contains__, "male, female or empty"),
        *_bad_values(table, "age_approx", _is_age, "a number of years or empty"),
        *_bad_values(table, "benign_malignant", {"benign", "malignant"}.__contains__, "benign or malignant"),
        *_bad_values(table, "target", {"0", "1"}.__contains__, "0 or 1"),
    ]
    wanted = table["benign_malignant"].map({"benign": "0", "malignant": "1"})
    differs = (wanted != table["target"]) & wanted.notna() & table["target"].isin(["0", "1"])
    problems += naming("target disagrees with benign_malignant", table.loc[differs, "image_name"])
    problems += _inconsistent(table, "patient_id", "sex")
    problems += _inconsistent(table, "lesion_id", "patient_id")
    problems += _inconsistent(table, "lesion_id", "target")
    refuse(path, problems)
    return table.assign(target=table["target"].astype("int64"))


def read_duplicates(path: Path) -> pd.DataFrame:
    """Read the pairs `image_name_1, image_name_2` (strings) of one picture under two names; the second is dropped.

    Raises:
        DataError: the file is absent or wrong; all its problems are in the one message.
    """
    table = _read_table(path, DUPLICATES_COLUMNS, may_be_empty=True)
    first, second = table["image_name_1"], table["image_name_2"]
    problems = [*_bad_names(table, "image_name_1"), *_bad_names(table, "image_name_2", unique=True)]
    problems += naming("in both columns, so no copy of the picture would be kept", first[first.isin(second)])
    refuse(path, problems)
    return table


def read_test_metadata(path: Path) -> pd.DataFrame:
    """Read the table of the unlabelled test images, strings exactly as written, "" where empty.

    Raises:
        DataError: the file is absent or wrong; all its problems are in the one message.
    """
    table = _read_table(path, TEST_COLUMNS, may_be_empty=True)
    problems = [
        *_bad_names(table, "image", unique=True),
        *_bad_names(table, "patient"),
        *_bad_values(table, "age_approx", _is_age, "a number of years or empty"),
        *_bad_values(table, "sex", {"male", "female", ""}.__contains__, "male, female or empty"),
        *_inconsistent(table, "patient", "sex"),
    ]
    refuse(path, problems)
    return table


@contextmanager
def reading(path: Path, broken: tuple[type[Exception], ...], problem: str, advice: str) -> Iterator[None]:
    """Raise a `DataError` where a file of a release is absent or `broken`, but not where it may not be read."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run 'dvc repro download'") from None
    except PermissionError:
        raise
    except broken as error:
        raise DataError(f"{path}: {problem}: {error}; {advice}") from None


def refuse(path: Path, problems: Sequence[str], advice: str = "mend the file or take another copy of it") -> None:
    """Raise one `DataError` that lists all `problems` of the file `path`, if there are any."""
    if problems:
        raise DataError("\n".join([f"{path}: {problems[0]}", *problems[1:], advice]))


def some(names: Sequence[object]) -> str:
    """Name the first three, and count the rest.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    rest = len(names) - 3
    return ", ".join(str(name) for name in names[:3]) + (f" and {rest:,} more" if rest > 0 else "")


def naming(problem: str, names: Sequence[object] | pd.Series) -> list[str]:
    """Return the problem with the names that have it; nothing if there are none."""
    return [f"{problem}: {some(list(names))}"] if len(names) else []


def _read_table(path: Path, columns: Sequence[str], optional: str = "", may_be_empty: bool = False) -> pd.DataFrame:
    """Read a CSV of strings; every line must have all the columns, but empty ones at the end are ignored.

    With `csv`, because pandas pads short lines.
    """
    broken = (OSError, UnicodeDecodeError, csv.Error)
    with (
        reading(path, broken, "not a readable CSV", "save it with commas, as UTF-8, or take another copy of it"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        header, *lines = list(csv.reader(file, strict=True)) or [[]]
    if header not in (list(columns), [name for name in columns if name != optional]):
        lacks = [name for name in columns if name not in (*header, optional)]
        why = f"lacks {', '.join(lacks)}" if lacks else "too many, or in another order"
        refuse(path, [f"{why}: columns {','.join(header)[:200]!r}, wanted {','.join(columns)!r}, with commas"])
    while lines and not lines[-1]:
        lines.pop()
    short = [f"line {number}" for number, line in enumerate(lines, 2) if len(line) != len(header)]
    refuse(path, naming(f"not {len(header)} columns wide", short))
    if not lines and not may_be_empty:
        refuse(path, ["no rows, wanted at least one"])
    # A carriage return would end a line of the index, and an escape sequence would reach the terminal.
    strange = [f"line {number}" for number, line in enumerate(lines, 2) if _CONTROL.search("".join(line))]
    refuse(path, naming("control characters, such as a line break within a cell", strange))
    table = pd.DataFrame(lines, columns=header, dtype=str)
    if optional and optional not in header:
        table.insert(columns.index(optional), optional, "")
    return table


def _bad_names(table: pd.DataFrame, column: str, unique: bool = False) -> list[str]:
    names = table[column]
    good = names.map(lambda name: _NAME.fullmatch(name) is not None).astype(bool)
    problems = naming(
        f"{column} is not a plain name (letters, digits and _)", [repr(name[:60]) for name in names[~good]]
    )
    if unique:
        problems += naming(f"{column} occurs more than once", names[names.duplicated()].unique().tolist())
    return problems


def _bad_values(table: pd.DataFrame, column: str, accept: Callable[[str], bool], wanted: str) -> list[str]:
    good = table[column].map(accept).astype(bool)
    wrong = [f"{value[:60]!r} (line {row + 2})" for row, value in table.loc[~good, column].items()]  # type: ignore[operator]
    return naming(f"{column} is not {wanted}", wrong)


def _is_age(text: str) -> bool:
    """Whether `text` is an age in years; Kaggle's copy writes 45 as 45.0."""
    return text == "" or (re.fullmatch(r"\d{1,3}(\.\d+)?", text, re.ASCII) is not None and float(text) <= 120)


def _inconsistent(table: pd.DataFrame, group: str, column: str) -> list[str]:
    """Name the groups, such as patients, with more than one value of `column`; the empty string says nothing."""
    known = table[(table[group] != "") & (table[column] != "")]
    n_values = known.groupby(group)[column].nunique()
    return naming(f"one {group} with more than one {column}", n_values[n_values > 1].index.tolist())
