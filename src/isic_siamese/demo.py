"""Draw the demo release: the five official files, their pictures and patients invented from a seed."""

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from tqdm import tqdm

from isic_siamese.files import replacing, write_csv
from isic_siamese.lesions import MOLE_PATTERNS, Signs, Skin, draw_jpeg, draw_skin, keep_memory
from isic_siamese.params import Count, Section, Seed
from isic_siamese.release import (
    DUPLICATES_COLUMNS,
    DUPLICATES_CSV,
    TEST_COLUMNS,
    TEST_CSV,
    TEST_FOLDER,
    TEST_ZIP,
    TRAIN_FOLDER,
    TRAIN_ZIP,
    TRUTH_COLUMNS,
    TRUTH_CSV,
)

FEWEST = 6  # patients with melanoma, and without: two of either for each of three splits
SHIFT = 2.2  # of the latent score of a melanoma, in standard deviations of a benign lesion's
SPREAD = 0.7  # of each sign about the latent score: the best possible observer of all four reaches an AUC of 0.93
RARITY = 3  # a patient's k-th melanoma is k ** RARITY times rarer than the first, so most have one and some two
SITES = {"torso": 0.50, "lower extremity": 0.25, "upper extremity": 0.15, "head/neck": 0.06, "palms/soles": 0.02}
DIAGNOSES = {"unknown": 0.60, "nevus": 0.33, "seborrheic keratosis": 0.05, "lentigo NOS": 0.02}  # of benign lesions
NOTE = "Synthetic pictures, drawn by isic-siamese. They show no real skin and no real patient.\n"


class DemoParams(Section):
    """Section `demo`: how many of everything, and from which seed."""

    seed: Seed
    patients: Annotated[int, Field(ge=2 * FEWEST)]
    images: Count
    melanomas: Annotated[int, Field(ge=FEWEST)]
    duplicates: Annotated[int, Field(ge=0)]
    test_images: Count
    image_px: Annotated[int, Field(ge=64, le=4096)]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.images < self.patients:
            raise ValueError(f"wanted at least {self.patients} images, one for each of the patients, got {self.images}")
        if self.melanomas > self.patients - FEWEST:
            raise ValueError(
                f"wanted at most {self.patients - FEWEST} melanomas, so that {FEWEST} of the {self.patients} patients "
                f"have none, got {self.melanomas}"
            )
        if self.duplicates > self.images:
            raise ValueError(f"wanted at most {self.images} duplicates, one for each image, got {self.duplicates}")
        return self


@dataclass(frozen=True)
class Patient:
    """A person who owns several lesions."""

    patient_id: str
    sex: str
    age: int  # years
    skin: Skin


@dataclass(frozen=True)
class Picture:
    """All it takes to draw one picture and to write its row of the tables."""

    name: str
    patient: Patient
    lesion_id: str
    site: str
    age: str  # years, a multiple of 5, or ""
    diagnosis: str
    malignant: bool
    signs: Signs
    seed: np.random.SeedSequence
    quality: int  # of the JPEG


@dataclass(frozen=True)
class Release:
    """The plan of a demo release: its pictures by name, and the pairs `(n, 2)` of names of one picture."""

    train: list[Picture]
    duplicates: list[tuple[str, str]]
    test: list[Picture]


def draw_demo_release(folder: Path, params: DemoParams, workers: int | None = None) -> None:
    """Write the five files of a release into `folder`, the same bytes for any number of `workers` (default: CPUs).

    Threads suffice, as most of the drawing leaves Python's lock alone.
    """
    release = plan_release(params)
    write_csv(folder / TRUTH_CSV, truth_table(release.train))
    write_csv(folder / DUPLICATES_CSV, pd.DataFrame(release.duplicates, columns=list(DUPLICATES_COLUMNS)))
    write_csv(folder / TEST_CSV, metadata_table(release.test))
    pictures = [*release.train, *release.test]
    keep_memory()
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        drawn = pool.map(lambda p: draw_jpeg(p.patient.skin, p.signs, params.image_px, p.seed, p.quality), pictures)
        jpegs = iter(tqdm(drawn, "drawing", len(pictures), unit="image"))
        _write_zip(folder / TRAIN_ZIP, TRAIN_FOLDER, release.train, jpegs)
        _write_zip(folder / TEST_ZIP, TEST_FOLDER, release.test, jpegs)
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C waits for the pictures begun, not for all


def plan_release(params: DemoParams) -> Release:
    """Invent patients, lesions and their signs; nothing is drawn yet."""
    table_seed, *seeds = np.random.SeedSequence(params.seed).spawn(1 + params.images + params.test_images)
    rng = np.random.default_rng(table_seed)
    n_test_patients = math.ceil(params.test_images * params.patients / params.images)
    patients = _draw_patients(rng, params.patients + n_test_patients)
    names = _draw_names(rng, "ISIC", params.images + params.test_images + params.duplicates)
    lesions = _draw_names(rng, "IL", params.images + params.test_images)

    owners = _assign(rng, params.images, params.patients)
    malignant = _choose_melanomas(rng, owners, params.melanomas)
    test_owners = params.patients + _assign(rng, params.test_images, n_test_patients)
    test_malignant = rng.random(params.test_images) < params.melanomas / params.images

    pictures = [
        _draw_picture(rng, name, lesion, patients[owner], bool(target), seed)
        for name, lesion, owner, target, seed in zip(
            names, lesions, [*owners, *test_owners], [*malignant, *test_malignant], seeds, strict=False
        )
    ]
    train, test = pictures[: params.images], pictures[params.images :]
    originals = [train[i] for i in sorted(rng.choice(params.images, params.duplicates, replace=False))]
    copies = [
        replace(original, name=name, quality=original.quality - 12)
        for original, name in zip(originals, names[len(pictures) :], strict=True)
    ]
    pairs = [(original.name, copy.name) for original, copy in zip(originals, copies, strict=True)]
    return Release(_by_name([*train, *copies]), pairs, _by_name(test))


def truth_table(pictures: Sequence[Picture]) -> pd.DataFrame:
    """Return the ground truth, official v2 columns, a row a picture."""
    rows = [
        (
            *(p.name, p.patient.patient_id, p.lesion_id, p.patient.sex, p.age, p.site, p.diagnosis),
            *("malignant" if p.malignant else "benign", int(p.malignant)),
        )
        for p in pictures
    ]
    return pd.DataFrame(rows, columns=list(TRUTH_COLUMNS))


def metadata_table(pictures: Sequence[Picture]) -> pd.DataFrame:
    """Return the metadata of the test pictures, official columns, without labels."""
    rows = [(p.name, p.patient.patient_id, p.age, p.site, p.patient.sex) for p in pictures]
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def _by_name(pictures: list[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: picture.name)


def _draw_names(rng: np.random.Generator, prefix: str, n: int) -> list[str]:
    return [f"{prefix}_{number:07}" for number in rng.choice(10_000_000, n, replace=False)]


def _draw_patients(rng: np.random.Generator, n: int) -> list[Patient]:
    return [
        Patient(
            patient_id=name,
            sex=str(rng.choice(["male", "female", ""], p=[0.51, 0.47, 0.02])),
            age=int(np.clip(rng.normal(49, 14), 15, 85)),
            skin=draw_skin(rng),
        )
        for name in _draw_names(rng, "IP", n)
    ]


def _assign(rng: np.random.Generator, n_images: int, n_patients: int) -> np.ndarray:
    """Return the patient of each image `(n_images,)`: at least one for everybody, many for a few, as officially."""
    shares = rng.dirichlet(np.full(n_patients, 1.5))
    return np.concatenate([np.arange(n_patients), rng.choice(n_patients, n_images - n_patients, p=shares)])


def _choose_melanomas(rng: np.random.Generator, owners: np.ndarray, n: int) -> np.ndarray:
    """Return which of the images of `owners` are the `n` melanomas, bool, of the shape of `owners`."""
    rank = 1 + rng.permutation(owners.max() + 1)[owners]
    nth = 1 + pd.Series(owners).groupby(owners).cumcount().to_numpy()
    malignant = np.zeros(len(owners), np.bool_)
    malignant[np.argsort(rank * nth**RARITY, kind="stable")[:n]] = True
    return malignant


def _draw_picture(
    rng: np.random.Generator, name: str, lesion_id: str, patient: Patient, malignant: bool, seed: np.random.SeedSequence
) -> Picture:
    score = rng.normal(SHIFT if malignant else 0)
    signs = 1 / (1 + np.exp(-1.3 * (score - SHIFT / 2 + rng.normal(0, SPREAD, 4))))
    diagnosis = "melanoma" if malignant else str(rng.choice(list(DIAGNOSES), p=list(DIAGNOSES.values())))
    if rng.random() < 0.3:  # not every mole takes after the others
        patient = replace(patient, skin=replace(patient.skin, pattern=str(rng.choice(MOLE_PATTERNS))))
    if diagnosis == "seborrheic keratosis":
        patient = replace(patient, skin=replace(patient.skin, pattern="keratosis"))
    return Picture(
        name=name,
        patient=patient,
        lesion_id=lesion_id,
        site=str(rng.choice([*SITES, ""], p=[*SITES.values(), 1 - sum(SITES.values())])),
        age="" if rng.random() < 0.02 else str(5 * round(patient.age / 5 + rng.uniform(-0.2, 0.2))),
        diagnosis=diagnosis,
        malignant=malignant,
        signs=Signs(*signs.tolist()),
        seed=seed,
        quality=int(rng.integers(84, 96)),
    )


def _write_zip(path: Path, folder: str, pictures: Sequence[Picture], jpegs: Iterator[bytes]) -> None:
    """Write the next of `jpegs` as `pictures` into a zip, beside a file that is no picture, as official zips have."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(_member(f"{folder}README.txt"), NOTE)
        for picture in pictures:
            archive.writestr(_member(f"{folder}{picture.name}.jpg"), next(jpegs))


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member that tells neither when nor where it was written; stored, because a JPEG does not shrink."""
    info = zipfile.ZipInfo(name, date_time=(2020, 5, 27, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info
