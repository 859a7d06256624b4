"""Divide patients into train, validation and test, so that no patient and no picture is in two splits."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from pydantic import model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from isic_siamese.arrays import Floats, Ints
from isic_siamese.errors import DataError, explaining
from isic_siamese.params import Fraction, Section

SPLITS = ("train", "val", "test")


class SplitParams(Section):
    """Section `split`: the fractions of the patients in each split; `test` gets what `train` and `val` leave."""

    train: Fraction
    val: Fraction

    @model_validator(mode="after")
    def _leave_a_test_split(self) -> Self:
        if self.train + self.val >= 1:
            raise ValueError(
                f"train + val must be below 1, to leave a test split; they add up to {self.train + self.val:g}"
            )
        return self

    @property
    def fractions(self) -> dict[str, float]:
        """The three fractions by split, in the order of `SPLITS`."""
        return {"train": self.train, "val": self.val, "test": 1 - self.train - self.val}


def split_patients(
    index: pd.DataFrame,
    fractions: Mapping[str, float],
    rng: np.random.Generator,
    shared: Sequence[tuple[int, int]] = (),
) -> pd.DataFrame:
    """Assign each patient to a split, stratified by what the patient brings to it.

    Patients are dealt out, those with the most melanomas first and of those the ones with the most images, each to
    the split that is furthest behind its share of the patients, images, patients with melanoma and melanomas dealt so
    far. So every stretch of that order is shared out in proportion: no split gets only the large patients. Ties
    are broken by `rng`: the seed decides who goes where, and hardly at all how many. Patients who share a picture are
    dealt out as one.

    Args:
        index: a row an image, with `row`, `patient_id` and `target` (1 is melanoma).
        fractions: the share of each split, adding up to 1.
        rng: the source of chance.
        shared: pairs of rows that hold one picture (`leaks.shared_pictures`).

    Returns:
        `patient_id, split`, a row a patient, by patient_id.

    Raises:
        DataError: a split would have fewer than two patients with melanoma or two without.
        ValueError: an image has no patient, or the fractions do not add up to 1.
    """
    if index["patient_id"].isna().any() or not math.isclose(sum(fractions.values()), 1):
        raise ValueError(f"wanted a patient for each image, and fractions that add up to 1, got {dict(fractions)}")
    grouped = index.groupby("patient_id", sort=True)["target"]
    patients = pd.DataFrame({"images": grouped.size(), "melanomas": grouped.sum()})
    of_patient = np.column_stack(
        [np.ones(len(patients)), patients["images"], patients["melanomas"] > 0, patients["melanomas"]]
    ).astype(np.float64)
    group = _connected(patients.index, index.set_index("row")["patient_id"], shared)
    brings = np.zeros((group.max() + 1, of_patient.shape[1]))
    np.add.at(brings, group, of_patient)
    shuffled = rng.permutation(len(brings))
    order = shuffled[np.lexsort((-brings[shuffled, 1], -brings[shuffled, 3]))]
    names, shares = list(fractions), np.array([*fractions.values()])[:, None]
    weight = 1 / np.maximum(brings.sum(axis=0), 1) ** 2

    dealt = np.zeros((len(names), brings.shape[1]))
    due = np.zeros_like(dealt)
    choice = np.zeros(len(brings), dtype=np.int64)
    for unit in order:
        adds = brings[unit]
        due += shares * adds
        # How much the squared distance from what is due changes if these patients join a split.
        change = (adds * (adds + 2 * (dealt - due)) * weight).sum(axis=1)
        choice[unit] = change.argmin()
        dealt[choice[unit]] += adds

    _check_both_classes(names, dealt)
    return pd.DataFrame({"patient_id": patients.index, "split": np.array(names)[choice[group]]})


def _connected(patients: "pd.Index[str]", of_row: "pd.Series[str]", shared: Sequence[tuple[int, int]]) -> Ints:
    """Return the group of each patient, int64 `(n,)`: one for all who share pictures, directly or through others."""
    ends = np.array([[patients.get_loc(of_row[row]) for row in pair] for pair in shared], np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(patients), len(patients)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _check_both_classes(names: list[str], dealt: Floats) -> None:
    wanted, (total, _, with_any, _) = 2 * len(names), dealt.sum(axis=0)
    if min(with_any, total - with_any) < wanted:
        raise DataError(
            f"splits: wanted at least {wanted} patients with melanoma and {wanted} without, 2 for each split, got "
            f"{with_any:.0f} and {total - with_any:.0f}; use a release with more patients"
        )
    for name, (patients, _, with_melanoma, _) in zip(names, dealt, strict=True):
        if with_melanoma < 2 or patients - with_melanoma < 2:
            change = "a smaller split.train or split.val" if name == "test" else f"a larger split.{name}"
            raise DataError(
                f"split {name}: wanted at least 2 patients with melanoma and 2 without, got {with_melanoma:.0f} and "
                f"{patients - with_melanoma:.0f}; use a release with more patients (those who share a "
                f"picture go together), or {change}"
            )


def read_splits(path: Path) -> pd.DataFrame:
    """Read `patient_id, split`.

    Raises:
        DataError: the file is absent or no such table, or names a patient twice or a split that there is not.
    """
    with explaining(path, "not a table of splits", "split"):
        splits = pd.read_csv(path, dtype=str, keep_default_na=False)  # a patient may be called NA
    if list(splits) != ["patient_id", "split"] or not splits["split"].isin(SPLITS).all():
        raise DataError(
            f"{path}: wanted columns patient_id,split and splits {', '.join(SPLITS)}; run 'dvc repro -f split'"
        )
    if splits["patient_id"].duplicated().any():
        twice = splits.loc[splits["patient_id"].duplicated(), "patient_id"].iloc[0]
        raise DataError(f"{path}: patient {twice} is listed twice; run 'dvc repro -f split'")
    return splits


def rows_of(index: pd.DataFrame, splits: pd.DataFrame, *names: str) -> Ints:
    """Return the rows, int64 `(n,)` and ascending, of the images in the splits of these names.

    Raises:
        DataError: a patient of the index has no split.
    """
    of_image = index["patient_id"].map(splits.set_index("patient_id")["split"])
    if of_image.isna().any():
        patient = index.loc[of_image.isna(), "patient_id"].iloc[0]
        raise DataError(f"splits: patient {patient} of the index has none; run 'dvc repro -f split'")
    return index.loc[of_image.isin(names), "row"].to_numpy(np.int64, copy=True)


def seen_images(index: pd.DataFrame, splits: pd.DataFrame) -> str:
    """Return the SHA-256 of the names of the images in the training split, and of those in the validation split.

    A model carries it, so that none is tested on images that it may have learned from.
    """
    names = ["\n".join(index["image_name"].iloc[rows_of(index, splits, name)]) for name in ("train", "val")]
    return hashlib.sha256("\n\n".join(names).encode()).hexdigest()


def count_splits(index: pd.DataFrame, splits: pd.DataFrame) -> dict[str, dict[str, int | float]]:
    """Return patients, images, melanomas and patients with melanoma of each split."""
    merged = index.merge(splits, on="patient_id")
    counts: dict[str, dict[str, int | float]] = {}
    for name in SPLITS:
        part = merged[merged["split"] == name]
        counts[name] = {
            "patients": int(part["patient_id"].nunique()),
            "patients_with_melanoma": int(part.loc[part["target"] == 1, "patient_id"].nunique()),
            "images": len(part),
            "melanomas": int(part["target"].sum()),
            "melanoma_fraction": float(part["target"].mean()),
        }
    return counts
