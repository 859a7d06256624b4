"""The three tables, right and wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isic_siamese import release
from isic_siamese.errors import DataError
from tests.release_folder import DUPLICATES, TEST, TRUTH, write_release, write_table, write_truth_v1

OFFICIAL = Path(__file__).parents[2] / "shared/isic2020-csv"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official tables are not here")
READERS = {
    release.TRUTH_CSV: release.read_truth,
    release.DUPLICATES_CSV: release.read_duplicates,
    release.TEST_CSV: release.read_test_metadata,
}


def test_values_stay_as_written(tmp_path: Path) -> None:
    truth = release.read_truth(write_release(tmp_path) / release.TRUTH_CSV)
    assert truth["target"].dtype == np.int64
    assert truth.astype({"target": str}).to_numpy().tolist() == TRUTH
    assert release.read_duplicates(tmp_path / release.DUPLICATES_CSV).to_numpy().tolist() == DUPLICATES
    assert release.read_test_metadata(tmp_path / release.TEST_CSV).to_numpy().tolist() == TEST


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_line_ends_and_byte_order_marks_do_not_matter(tmp_path: Path, line_end: str, mark: bytes) -> None:
    path = write_release(tmp_path) / release.TRUTH_CSV
    wanted = release.read_truth(path)
    write_table(path, release.TRUTH_COLUMNS, TRUTH, line_end)
    path.write_bytes(mark + path.read_bytes())
    pd.testing.assert_frame_equal(release.read_truth(path), wanted)


@pytest.mark.parametrize("end", ["\n", "\n\n\n", "\r\n\r\n"])
def test_empty_lines_at_the_end_do_not_matter(tmp_path: Path, end: str) -> None:
    path = write_release(tmp_path) / release.TRUTH_CSV
    wanted = release.read_truth(path)
    path.write_bytes(path.read_bytes() + end.encode())
    pd.testing.assert_frame_equal(release.read_truth(path), wanted)


def test_the_older_ground_truth_gets_an_empty_lesion_id(tmp_path: Path) -> None:
    wanted = release.read_truth(write_release(tmp_path) / release.TRUTH_CSV)
    write_truth_v1(tmp_path)
    pd.testing.assert_frame_equal(release.read_truth(tmp_path / release.TRUTH_V1_CSV), wanted.assign(lesion_id=""))


def test_there_may_be_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / release.DUPLICATES_CSV
    write_table(path, release.DUPLICATES_COLUMNS, [])
    assert release.read_duplicates(path).empty


def change(row: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    def edit(rows: list[list[str]]) -> None:
        rows[row][column] = value

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "problem"),
    [
        (release.TRUTH_CSV, change(0, 0, "image"), "lacks image_name: columns 'image,patient_id,lesion_id,sex"),
        (release.TRUTH_CSV, lambda rows: rows[0].reverse(), "too many, or in another order: columns 'target,benign"),
        (release.TRUTH_CSV, lambda rows: rows[2].pop(), "not 9 columns wide: line 3"),
        (release.TRUTH_CSV, lambda rows: rows[2].append("x"), "not 9 columns wide: line 3"),
        (release.TRUTH_CSV, lambda rows: rows.insert(2, []), "not 9 columns wide: line 3"),
        (release.TRUTH_CSV, lambda rows: rows.__delitem__(slice(1, None)), "no rows, wanted at least one"),
        (release.TRUTH_CSV, lambda rows: rows.__setitem__(slice(1, None), [[]]), "no rows, wanted at least one"),
        (release.TRUTH_CSV, change(1, 0, "../x"), "image_name is not a plain name (letters, digits and _): '../x'"),
        (release.TRUTH_CSV, change(1, 0, ""), "image_name is not a plain name (letters, digits and _): ''"),
        (release.TRUTH_CSV, change(2, 0, "ISIC_0000001"), "image_name occurs more than once: ISIC_0000001"),
        (release.TRUTH_CSV, change(1, 1, ""), "patient_id is not a plain name (letters, digits and _): ''"),
        (release.TRUTH_CSV, change(1, 6, "ne\nvus"), "control characters, such as a line break within a cell: line 2"),
        (release.TEST_CSV, change(2, 3, "\x1b[2J"), "control characters, such as a line break within a cell: line 3"),
        (release.TRUTH_CSV, change(1, 3, "M"), "sex is not male, female or empty: 'M' (line 2)"),
        (release.TRUTH_CSV, change(1, 4, "old"), "age_approx is not a number of years or empty: 'old' (line 2)"),
        (release.TRUTH_CSV, change(4, 4, "121"), "age_approx is not a number of years or empty: '121' (line 5)"),
        (release.TRUTH_CSV, change(1, 4, "nan"), "age_approx is not a number of years or empty: 'nan' (line 2)"),
        (release.TRUTH_CSV, change(1, 7, "Benign"), "benign_malignant is not benign or malignant: 'Benign' (line 2)"),
        (release.TRUTH_CSV, change(1, 8, "2"), "target is not 0 or 1: '2' (line 2)"),
        (release.TRUTH_CSV, change(1, 8, "1"), "target disagrees with benign_malignant: ISIC_0000001"),
        (release.TRUTH_CSV, change(1, 3, "female"), "one patient_id with more than one sex: IP_0000001"),
        (release.TRUTH_CSV, change(1, 2, "IL_0000003"), "one lesion_id with more than one patient_id: IL_0000003"),
        (release.TRUTH_CSV, change(1, 2, "IL_0000002"), "one lesion_id with more than one target: IL_0000002"),
        (
            release.DUPLICATES_CSV,
            change(0, 1, "b"),
            "lacks image_name_2: columns 'image_name_1,b', wanted 'image_name_1,image_name_2'",
        ),
        (release.DUPLICATES_CSV, lambda rows: rows.append(rows[1]), "image_name_2 occurs more than once: ISIC_0000004"),
        (
            release.DUPLICATES_CSV,
            change(1, 0, "ISIC_0000004"),
            "in both columns, so no copy of the picture would be kept: ISIC_0000004",
        ),
        (release.TEST_CSV, change(2, 0, "ISIC_0000005"), "image occurs more than once: ISIC_0000005"),
        (release.TEST_CSV, change(1, 1, "a b"), "patient is not a plain name (letters, digits and _): 'a b'"),
        (release.TEST_CSV, change(1, 4, "female"), "one patient with more than one sex: IP_0000009"),
        (release.TEST_CSV, change(1, 2, "-5"), "age_approx is not a number of years or empty: '-5' (line 2)"),
        (release.TEST_CSV, change(1, 4, "x"), "sex is not male, female or empty: 'x' (line 2)"),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, name: str, edit: Callable[[list[list[str]]], object], problem: str
) -> None:
    path = write_release(tmp_path) / name
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    edit(table := [header, *rows])
    write_table(path, table[0], table[1:])
    with pytest.raises(DataError) as refusal:
        READERS[name](path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert problem in str(refusal.value)
    assert str(refusal.value).endswith("mend the file or take another copy of it")


def test_all_problems_are_in_one_message_and_the_first_few_named(tmp_path: Path) -> None:
    path = write_release(tmp_path) / release.TRUTH_CSV
    rows = [[f"ISIC_{i:07}", f"IP_{i:07}", "", "?", "?", "", "", "benign", "0"] for i in range(1_500)]
    write_table(path, release.TRUTH_COLUMNS, rows)
    with pytest.raises(DataError) as refusal:
        release.read_truth(path)
    assert str(refusal.value).splitlines() == [
        f"{path}: sex is not male, female or empty: '?' (line 2), '?' (line 3), '?' (line 4) and 1,497 more",
        "age_approx is not a number of years or empty: '?' (line 2), '?' (line 3), '?' (line 4) and 1,497 more",
        "mend the file or take another copy of it",
    ]


def test_as_many_names_as_are_shown_are_not_counted() -> None:
    assert release.some(["a", "b", "c"]) == "a, b, c"
    assert release.some(["a", "b", "c", "d"]) == "a, b, c and 1 more"


def test_an_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Duplicates\.csv: no such file; run 'dvc repro download'"):
        release.read_duplicates(tmp_path / release.DUPLICATES_CSV)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'"', b"PK\x03\x04\0", b"<html>\n"], ids=repr)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / release.TRUTH_CSV
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"v2\.csv: (not a readable CSV|lacks image_name)"):
        release.read_truth(path)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(data=st.data())
def test_a_corrupted_table_is_refused_or_still_makes_sense(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = write_release(tmp_path_factory.getbasetemp() / "fuzzed-tables")
    name = data.draw(st.sampled_from(sorted(READERS)))
    content = bytearray((folder / name).read_bytes())
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(start + 40, len(content))))
    content[start:stop] = data.draw(st.binary(max_size=12) | st.sampled_from([b",", b'"', b"\r", b"\n", b"0", b"1"]))
    (folder / name).write_bytes(content)
    try:
        table = READERS[name](folder / name)
    except DataError as error:
        assert str(folder / name) in str(error)
        return
    assert not table.isna().to_numpy().any()
    if name == release.TRUTH_CSV:
        assert table["image_name"].is_unique
        assert (table["target"] == (table["benign_malignant"] == "malignant")).all()


@needs_official
def test_the_complete_official_tables_are_read() -> None:
    truth = release.read_truth(OFFICIAL / release.TRUTH_CSV)
    assert (len(truth), int(truth["target"].sum())) == (33_126, 584)
    assert truth["patient_id"].nunique() == 2_056
    older = release.read_truth(OFFICIAL / release.TRUTH_V1_CSV)
    pd.testing.assert_frame_equal(older, truth.assign(lesion_id=""))
    assert len(release.read_duplicates(OFFICIAL / release.DUPLICATES_CSV)) == 425
    assert len(release.read_test_metadata(OFFICIAL / release.TEST_CSV)) == 10_982
