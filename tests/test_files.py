import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic_siamese.files import replacing, write_csv, write_json, write_npy


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["metrics.json"]  # noqa: PTH208


def test_a_read_only_file_linked_elsewhere_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out.json"
    cache.write_text("{}")
    cache.chmod(0o444)
    out.hardlink_to(cache)
    write_json(out, {"a": 1})
    assert cache.read_text() == "{}" and out.read_text() == '{\n  "a": 1\n}\n'


def test_json_has_six_decimals_in_its_own_order_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "new/metrics.json"
    write_json(path, {"b": {"x": 0.12345678}, "a": 3})
    assert path.read_text() == '{\n  "b": {\n    "x": 0.123457\n  },\n  "a": 3\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})


def test_csv_has_line_feeds_six_decimals_and_no_index(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", pd.DataFrame({"name": ["a", "b"], "value": [1 / 3, 2.0]}))
    assert (tmp_path / "t.csv").read_bytes() == b"name,value\na,0.333333\nb,2.000000\n"


@pytest.mark.parametrize("array", [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.ones((0, 3)), np.zeros(1, "f4")])
def test_an_array_is_written_as_numpy_writes_it(tmp_path: Path, array: np.ndarray) -> None:
    write_npy(tmp_path / "ours.npy", array)
    np.save(tmp_path / "theirs.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_an_error_names_the_file_asked_for_and_not_the_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(IsADirectoryError) as failure:
        write_csv(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))
    assert failure.value.filename == str(tmp_path / "a.csv")


def test_a_temporary_file_that_cannot_be_deleted_is_not_named_either(tmp_path: Path) -> None:
    with pytest.raises(OSError) as failure, replacing(tmp_path / "a.csv") as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert failure.value.filename == str(tmp_path / "a.csv")


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failure, replacing(tmp_path / "a.csv"):
        (tmp_path / "other").read_bytes()
    assert str(failure.value.filename) == str(tmp_path / "other")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_array_that_a_full_disk_does_not_take_says_so(tmp_path: Path) -> None:
    (tmp_path / f".{os.getpid()}.a.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.npy'"):
        write_npy(tmp_path / "a.npy", np.zeros(1 << 20))
