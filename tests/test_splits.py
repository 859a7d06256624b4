from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isic_siamese.errors import DataError
from isic_siamese.files import write_csv
from isic_siamese.splits import SplitParams, count_splits, read_splits, rows_of, split_patients
from stages import split
from tests.test_leaks import pictures

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def release_like(seed: int, n_patients: int, melanoma_patients: int) -> pd.DataFrame:
    """An index with 1 to 40 images a patient and 1 to 3 melanomas in some patients."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(n_patients):
        n_melanomas = rng.integers(1, 4) if patient < melanoma_patients else 0
        n_images = max(n_melanomas, rng.integers(1, 41))
        rows += [(f"IP_{patient:07}", int(image < n_melanomas)) for image in range(n_images)]
    return pd.DataFrame(rows, columns=["patient_id", "target"]).rename_axis("row").reset_index()


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 1000), n_patients=st.integers(150, 400), share=st.floats(0.1, 0.5))
def test_every_patient_is_in_one_split_and_every_split_has_its_share(seed: int, n_patients: int, share: float) -> None:
    index = release_like(seed, n_patients, round(n_patients * share))
    splits = split_patients(index, FRACTIONS, np.random.default_rng(seed))
    assert sorted(splits["patient_id"]) == sorted(index["patient_id"].unique())
    counts = count_splits(index, splits)
    for name, fraction in FRACTIONS.items():
        for key in ("patients", "patients_with_melanoma", "melanomas"):
            total = sum(counts[split][key] for split in FRACTIONS)
            assert abs(counts[name][key] - fraction * total) <= 1.5, (name, key)
        images = sum(counts[split]["images"] for split in FRACTIONS)
        assert abs(counts[name]["images"] - fraction * images) <= 40 + 0.02 * images  # one large patient, and a bit


def test_no_split_gets_only_the_large_patients() -> None:
    index = release_like(0, 300, 60)
    splits = split_patients(index, FRACTIONS, np.random.default_rng(0))
    sizes = index.groupby("patient_id").size()
    means = sizes.groupby(splits.set_index("patient_id")["split"]).mean()
    assert means.max() / means.min() < 1.15


def test_the_seed_decides_who_goes_where_and_nothing_else_does() -> None:
    index = release_like(0, 200, 40)
    shared = [(0, len(index) - 1)]
    first, again, other = (split_patients(index, FRACTIONS, np.random.default_rng(seed), shared) for seed in (1, 1, 2))
    in_any_order = index.sample(frac=1, random_state=0, ignore_index=True)
    shuffled = split_patients(in_any_order, FRACTIONS, np.random.default_rng(1), shared)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, shuffled)
    assert not first.equals(other)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 1000), n_shared=st.integers(1, 60))
def test_patients_who_share_a_picture_directly_or_through_others_are_in_one_split(seed: int, n_shared: int) -> None:
    index = release_like(seed, 300, 60)
    shared = np.random.default_rng(seed).integers(0, len(index), (n_shared, 2)).tolist()
    splits = split_patients(index, FRACTIONS, np.random.default_rng(seed), shared)
    assert splits["patient_id"].is_unique and set(splits["patient_id"]) == set(index["patient_id"])
    of_row = index["patient_id"].map(splits.set_index("patient_id")["split"])
    assert all(of_row[one] == of_row[other] for one, other in shared)
    counts = count_splits(index, splits)
    for name, fraction in FRACTIONS.items():
        assert abs(counts[name]["patients"] - 300 * fraction) < 20


def test_a_picture_that_one_patient_has_twice_changes_nothing() -> None:
    index = release_like(0, 200, 40)
    first, second = index.index[index["patient_id"] == index["patient_id"][0]][[0, -1]]
    alone, shared = (
        split_patients(index, FRACTIONS, np.random.default_rng(0), pairs) for pairs in ([], [(first, second)])
    )
    pd.testing.assert_frame_equal(alone, shared)


def test_a_split_without_both_classes_is_refused() -> None:
    index = release_like(0, 60, 20)
    problem = r"split val: wanted at least 2 patients with melanoma and 2 without, got .*, or a larger split\.val$"
    with pytest.raises(DataError, match=problem):
        split_patients(index, {"train": 0.84, "val": 0.01, "test": 0.15}, np.random.default_rng(0))


def test_a_test_split_that_is_too_small_is_what_the_others_leave() -> None:
    index = release_like(0, 60, 20)
    with pytest.raises(DataError, match=r"split test: wanted .*, or a smaller split\.train or split\.val$"):
        split_patients(index, {"train": 0.6, "val": 0.39, "test": 0.01}, np.random.default_rng(0))


def test_an_image_without_a_patient_and_shares_of_more_than_all_are_refused() -> None:
    index = release_like(0, 60, 20)
    wrong = [(index.assign(patient_id=index["patient_id"].mask(index["row"] == 3)), FRACTIONS)]
    wrong.append((index, {"train": 0.7, "val": 0.15, "test": 0.2}))
    for table, fractions in wrong:
        with pytest.raises(ValueError, match="wanted a patient for each image, and fractions that add up to 1"):
            split_patients(table, fractions, np.random.default_rng(0))


@pytest.mark.parametrize("with_melanoma", [0, 5, 55, 60])
def test_a_release_without_enough_patients_of_a_class_is_refused_as_such(with_melanoma: int) -> None:
    with pytest.raises(DataError) as refusal:
        split_patients(release_like(0, 60, with_melanoma), FRACTIONS, np.random.default_rng(0))
    assert str(refusal.value) == (
        "splits: wanted at least 6 patients with melanoma and 6 without, 2 for each split, got "
        f"{with_melanoma} and {60 - with_melanoma}; use a release with more patients"
    )


@pytest.mark.parametrize(("val", "total"), [(0.1, "1"), (0.3, "1.2")])
def test_fractions_that_leave_no_test_split_are_refused(val: float, total: str) -> None:
    with pytest.raises(
        ValidationError, match=rf"train \+ val must be below 1, to leave a test split; they add up to {total} "
    ):
        SplitParams(train=0.9, val=val)


def test_rows_of_a_split_are_those_of_its_patients() -> None:
    index = pd.DataFrame({"row": [0, 1, 2, 3], "patient_id": ["a", "b", "a", "c"], "target": [0, 1, 1, 0]})
    splits = pd.DataFrame({"patient_id": ["a", "b", "c"], "split": ["train", "val", "train"]})
    assert rows_of(index, splits, "train").tolist() == [0, 2, 3]
    assert rows_of(index, splits, "val").tolist() == [1]
    assert rows_of(index, splits, "test").tolist() == []
    assert rows_of(index, splits, "val", "train").tolist() == [0, 1, 2, 3]


def test_a_split_is_counted_by_its_patients_and_images() -> None:
    index = pd.DataFrame({"patient_id": ["a", "b", "a", "a", "b", "c"], "target": [1, 0, 1, 0, 0, 0]})
    splits = pd.DataFrame({"patient_id": ["a", "b", "c"], "split": ["train", "train", "val"]})
    counts = count_splits(index, splits)["train"]
    both = {"patients": 2, "patients_with_melanoma": 1, "images": 5, "melanomas": 2, "melanoma_fraction": 0.4}
    assert counts == both


def test_a_patient_without_a_split_is_named() -> None:
    index = pd.DataFrame({"row": [0, 1], "patient_id": ["a", "b"], "target": [0, 1]})
    with pytest.raises(DataError, match="splits: patient b of the index has none; run 'dvc repro -f split'"):
        rows_of(index, pd.DataFrame({"patient_id": ["a"], "split": ["train"]}), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"splits.csv: no such file; run 'dvc repro split'"),
        ("patient,split\na,train\n", "wanted columns patient_id,split"),
        ("patient_id,split\na,train\nb,training\n", "splits train, val, test"),
        ("patient_id,split\na,train\na,val\n", "patient a is listed twice"),
        ("", "splits.csv: not a table of splits: No columns"),
        ("patient_id,split\na,train,b\nb,c,d,e\n", "splits.csv: not a table of splits: "),
    ],
)
def test_a_wrong_splits_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "splits.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_splits(path)


def test_a_patient_may_have_the_name_of_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("patient_id,split\nNA,train\nnull,val\n")
    assert read_splits(tmp_path / "splits.csv")["patient_id"].tolist() == ["NA", "null"]


def test_the_stage_keeps_patients_of_one_picture_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/shards/train"
    index = pd.DataFrame({"patient_id": [f"IP_{number}" for number in range(60)], "target": [1, 0] * 30})
    write_csv(folder / "index.csv", index.rename_axis("row").reset_index().assign(image_name=index["patient_id"]))
    (tmp_path / "params.yaml").write_text("release: demo\nseed: 0\nmargin: 1.0\nsplit: {train: 0.7, val: 0.15}\n")
    images = pictures(60, 64)
    np.save(folder / "shard-00000.npy", images)
    split.main()
    before = read_splits(tmp_path / "data/splits.csv").set_index("patient_id")["split"]
    first, last = before.index[before == "train"][0], before.index[before == "test"][0]
    images[index.index[index["patient_id"] == last]] = images[index.index[index["patient_id"] == first]][:, :, ::-1]
    np.save(folder / "shard-00000.npy", images)
    split.main()
    after = read_splits(tmp_path / "data/splits.csv").set_index("patient_id")["split"]
    assert after[first] == after[last] and set(after) == {"train", "val", "test"}


def test_six_patients_of_each_class_are_enough_and_those_who_share_a_picture_stay_one_split() -> None:
    targets = [1] * 6 + [0] * 6
    index = pd.DataFrame({"row": range(12), "patient_id": [f"IP_{row:02}" for row in range(12)], "target": targets})
    thirds = dict.fromkeys(FRACTIONS, 1 / 3)
    counts = count_splits(index, split_patients(index, thirds, np.random.default_rng(0)))
    assert [(part["patients_with_melanoma"], part["patients"]) for part in counts.values()] == [(2, 4)] * 3
    shared = [(0, 1), (1, 2), (3, 4)]  # six of one class as three, two and one, beside twelve of the other
    for target, got in ((1, r"1 and \d"), (0, r"\d and 1")):
        targets = [target] * 6 + [1 - target] * 12
        index = pd.DataFrame({"row": range(18), "patient_id": [f"IP_{row:02}" for row in range(18)], "target": targets})
        with pytest.raises(DataError, match=rf"wanted at least 2 .*, got {got}; use .* \(those who share a picture"):
            split_patients(index, thirds, np.random.default_rng(0), shared)
