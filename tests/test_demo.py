import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML
from sklearn.metrics import roc_auc_score

from isic_siamese.demo import DemoParams, draw_demo_release, plan_release
from isic_siamese.errors import ParamsError
from isic_siamese.lesions import draw_lesion
from isic_siamese.params import Params
from isic_siamese.release import (
    DUPLICATES_CSV,
    FILES,
    TEST_CSV,
    TEST_FOLDER,
    TEST_ZIP,
    TRAIN_FOLDER,
    TRAIN_ZIP,
    TRUTH_CSV,
    read_duplicates,
    read_test_metadata,
    read_truth,
)
from tests.release_folder import contents

SMALL = DemoParams(seed=7, patients=14, images=40, melanomas=8, duplicates=3, test_images=5, image_px=64)
LARGE = DemoParams(seed=1, patients=500, images=3000, melanomas=400, duplicates=0, test_images=1, image_px=64)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    draw_demo_release(folder, SMALL, workers=1)
    return folder


def pictures(path: Path, folder: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {
            name.removeprefix(folder).removesuffix(".jpg"): np.asarray(Image.open(io.BytesIO(archive.read(name))))
            for name in archive.namelist()
            if name.endswith(".jpg")
        }


def test_the_five_official_files_are_there_and_nothing_else(release: Path) -> None:
    assert {path.name for path in release.iterdir()} == set(FILES)


def test_the_counts_are_those_of_the_parameters(release: Path) -> None:
    truth, duplicates = read_truth(release / TRUTH_CSV), read_duplicates(release / DUPLICATES_CSV)
    kept = truth[~truth["image_name"].isin(duplicates["image_name_2"])]
    assert (len(truth), len(kept), len(duplicates)) == (43, 40, 3)
    assert (kept["patient_id"].nunique(), kept["target"].sum()) == (14, 8)
    assert len(read_test_metadata(release / TEST_CSV)) == 5


def test_the_zips_hold_the_pictures_of_the_tables_and_a_note(release: Path) -> None:
    truth, metadata = read_truth(release / TRUTH_CSV), read_test_metadata(release / TEST_CSV)
    for path, folder, names in (
        (release / TRAIN_ZIP, TRAIN_FOLDER, truth["image_name"]),
        (release / TEST_ZIP, TEST_FOLDER, metadata["image"]),
    ):
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == [f"{folder}README.txt", *(f"{folder}{name}.jpg" for name in names)]
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {min(pixels.shape[:2]) for pixels in pictures(path, folder).values()} == {64}


def test_the_values_look_official(release: Path) -> None:
    truth, metadata = read_truth(release / TRUTH_CSV), read_test_metadata(release / TEST_CSV)
    assert truth["image_name"].str.fullmatch(r"ISIC_\d{7}").all()
    assert truth["patient_id"].str.fullmatch(r"IP_\d{7}").all()
    assert truth["lesion_id"].str.fullmatch(r"IL_\d{7}").all()
    assert ((truth["diagnosis"] == "melanoma") == (truth["target"] == 1)).all()
    ages = pd.to_numeric(truth["age_approx"])
    assert (ages.dropna() % 5 == 0).all()
    assert ages.between(10, 90).sum() == ages.notna().sum()
    assert not set(truth["image_name"]) & set(metadata["image"])
    assert not set(truth["patient_id"]) & set(metadata["patient"])


def test_a_duplicate_is_the_same_picture_in_another_file(release: Path) -> None:
    truth = read_truth(release / TRUTH_CSV).set_index("image_name")
    shown = pictures(release / TRAIN_ZIP, TRAIN_FOLDER)
    for first, second in read_duplicates(release / DUPLICATES_CSV).itertuples(index=False):
        assert truth.loc[first].equals(truth.loc[second])
        assert not np.array_equal(shown[first], shown[second])
        assert np.abs(shown[first].astype(float) - shown[second]).mean() < 5


def test_the_bytes_are_the_same_for_any_number_of_workers(release: Path, tmp_path: Path) -> None:
    draw_demo_release(tmp_path, SMALL, workers=2)
    assert contents(tmp_path) == contents(release)


def test_another_seed_draws_another_release() -> None:
    few = SMALL.model_copy(update={"seed": 8})
    names, others = ([picture.name for picture in plan_release(params).train] for params in (SMALL, few))
    assert not set(names) & set(others)


def test_melanomas_differ_from_benign_lesions_by_overlapping_amounts() -> None:
    train = plan_release(LARGE).train
    target = [picture.malignant for picture in train]
    signs = np.array([list(vars(picture.signs).values()) for picture in train])
    assert signs.min() >= 0
    assert signs.max() <= 1
    for sign in signs.T:
        assert 0.85 < roc_auc_score(target, sign) < 0.94
    # The best observer of all four signs adds up their log odds.
    assert 0.90 < roc_auc_score(target, np.log(signs / (1 - signs)).sum(axis=1)) < 0.96


def test_the_mean_colour_does_not_give_a_melanoma_away() -> None:
    train = plan_release(LARGE).train
    some = [p for p in train if p.malignant][:120] + [p for p in train if not p.malignant][:120]
    means = np.array([draw_lesion(p.patient.skin, p.signs, 64, p.seed).mean(axis=(0, 1)) for p in some])
    for channel in means.T:
        assert abs(roc_auc_score([p.malignant for p in some], channel) - 0.5) < 0.15


def test_most_patients_with_melanoma_have_one_and_some_have_more() -> None:
    train = plan_release(LARGE).train
    table = pd.DataFrame({"patient": [p.patient.patient_id for p in train], "malignant": [p.malignant for p in train]})
    melanomas = table.groupby("patient")["malignant"].sum()
    assert len(melanomas) == 500
    assert 0.05 < (melanomas[melanomas > 0] > 1).mean() < 0.3


@pytest.mark.parametrize(("patients", "images", "melanomas"), [(12, 12, 6), (12, 400, 6), (40, 40, 34)])
def test_six_patients_have_melanoma_and_six_have_none(patients: int, images: int, melanomas: int) -> None:
    update = {"patients": patients, "images": images, "melanomas": melanomas}
    train = plan_release(SMALL.model_copy(update={**update, "duplicates": 0})).train
    affected = {p.patient.patient_id for p in train if p.malignant}
    assert len(affected) >= 6
    assert len({p.patient.patient_id for p in train} - affected) >= 6
    assert sum(p.malignant for p in train) == melanomas


def test_the_pictures_of_a_patient_share_the_skin() -> None:
    skins: dict[str, set[float]] = {}
    for picture in plan_release(SMALL).train:
        skins.setdefault(picture.patient.patient_id, set()).add(picture.patient.skin.melanin)
    assert {len(tones) for tones in skins.values()} == {1}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", 13, "demo: wanted at least 14 images, one for each of the patients, got 13"),
        ("melanomas", 9, "demo: wanted at most 8 melanomas, so that 6 of the 14 patients have none"),
        ("melanomas", 5, "demo.melanomas: input should be greater than or equal to 6, got 5"),
        ("duplicates", 41, "demo: wanted at most 40 duplicates, one for each image, got 41"),
        ("patients", 11, "demo.patients: input should be greater than or equal to 12, got 11"),
        ("test_images", 0, "demo.test_images: input should be greater than or equal to 1, got 0"),
        ("image_px", 32, "demo.image_px: input should be greater than or equal to 64, got 32"),
        ("image_px", 64.0, "demo.image_px: input should be a valid integer, got 64.0"),
    ],
)
def test_a_wrong_number_is_refused_by_name(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "params.yaml"
    demo = {**SMALL.model_dump(), key: value}
    YAML(typ="safe").dump({"release": "demo", "seed": 1, "margin": 1.0, "demo": demo}, path)
    with pytest.raises(ParamsError) as caught:
        Params(path).section("demo", DemoParams)
    assert message in str(caught.value)
    assert str(caught.value).count("\n") == 0
