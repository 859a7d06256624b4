import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from isic_siamese import controls
from isic_siamese.areas import rank_auc
from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.controls import ControlData, FrozenFeatures, control_figures, mean_colours, regress
from isic_siamese.encoder import build_encoder
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_csv
from isic_siamese.shards import Shards, read_shards
from isic_siamese.votes import vote_scores
from stages import controls as stage
from tests.answered_project import make_project

N = 60
MALIGNANT = np.arange(N) % 3 == 0
AS_THEY_ARE = EvaluateParams(
    temperature=0.1, vote_penalty=0.1, neighbours=1, orientations=1, resamples=200, confidence=0.95
)


def data_of(folder: Path, images: np.ndarray, **columns: object) -> ControlData:
    silent = {"sex": "", "age_approx": "", "anatom_site_general_challenge": ""}
    index = pd.DataFrame({"target": MALIGNANT.astype(int), **silent, **columns})
    np.save(folder / "shard-00000.npy", images)
    return ControlData(index, np.arange(40), np.arange(40, N), Shards(folder), AS_THEY_ARE)


def grey(px: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 110, (N, px, px, 3), dtype=np.uint8)


def test_colour_alone_finds_melanomas_that_are_redder(tmp_path: Path) -> None:
    images = grey()
    images[MALIGNANT, :, :, 0] += 20
    scores = dict(controls.control_scores(data_of(tmp_path, images), seed=0))
    assert roc_auc_score(MALIGNANT[40:], scores["mean_colour"]) == 1
    assert len(scores) == 5 + controls.SHUFFLES


def test_an_untrained_encoder_is_that_of_the_seed(tmp_path: Path) -> None:
    few = data_of(tmp_path, grey()[:12])
    data = replace(few, index=few.index[:12], references=np.arange(8), test=np.arange(8, 12))
    scores = [dict(islice(controls.control_scores(data, seed), 3))["untrained_encoder"] for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1]) and not np.array_equal(scores[0], scores[2])


def test_regressions_and_votes_are_those_written_down(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = (rng.integers(60, 180, (N, 1, 1, 3)) + rng.integers(0, 40, (N, 32, 32, 3))).astype(np.uint8)
    data = data_of(tmp_path, images)
    frozen = FrozenFeatures("imagenet", data.shards, orientations=1, seed=0)
    embeddings = frozen.embeddings(data.references)
    scores = dict([next(controls.control_scores(data, 0)), *controls.frozen_scores(data, frozen.pooled, embeddings)])
    for name, features, c in (
        ("mean_colour", images.mean(axis=(1, 2)), np.inf),
        ("imagenet_features", frozen.pooled.astype(np.float64), controls.SHRINKAGE),
    ):
        units = features[:40].std(axis=0)
        standard = (features - features[:40].mean(axis=0)) / np.where(units > 0, units, 1)
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(standard[:40], MALIGNANT[:40])
        np.testing.assert_allclose(scores[name], model.decision_function(standard[40:]), rtol=0.01, atol=1e-3)
    voting = controls.FROZEN_TEMPERATURE, AS_THEY_ARE.vote_penalty
    expected = vote_scores(embeddings[40:], embeddings[:40], MALIGNANT[:40], *voting)
    np.testing.assert_array_equal(scores["imagenet_votes"], expected)


def test_shuffled_labels_have_no_skill_where_the_features_have_all(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
    images[MALIGNANT] //= 4
    scores = dict(controls.control_scores(data_of(tmp_path, images), seed=0))
    areas = [roc_auc_score(MALIGNANT[40:], scores[f"shuffled_labels.{number}"]) for number in range(controls.SHUFFLES)]
    assert roc_auc_score(MALIGNANT[40:], scores["imagenet_features"]) == 1
    assert min(areas) < 0.5 < max(areas)


def test_metadata_alone_finds_melanomas_of_the_old_even_where_some_ages_are_missing(tmp_path: Path) -> None:
    ages = np.where(MALIGNANT, "70", "40").astype(object)
    ages[::7] = ""
    data = data_of(tmp_path, grey(), age_approx=ages, sex=np.where(np.arange(N) % 2, "male", "female"))
    known = ages[40:] != ""
    assert roc_auc_score(MALIGNANT[40:][known], controls._metadata_scores(data)[known]) == 1


@pytest.mark.parametrize("column", ["sex", "anatom_site_general_challenge"])
def test_metadata_alone_finds_melanomas_of_one_kind(column: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, grey(), **{column: np.where(MALIGNANT, "one", "other")})
    assert roc_auc_score(MALIGNANT[40:], controls._metadata_scores(data)) == 1


def test_an_age_that_is_missing_is_a_value_too_and_a_site_that_no_reference_has_is_none(tmp_path: Path) -> None:
    sites = np.where(np.arange(N) < 40, "torso", "palms/soles")
    data = data_of(tmp_path, grey(), age_approx=np.where(MALIGNANT, "", "50"), anatom_site_general_challenge=sites)
    assert roc_auc_score(MALIGNANT[40:], controls._metadata_scores(data)) == 1


def test_metadata_that_is_silent_has_no_skill(tmp_path: Path) -> None:
    assert np.ptp(controls._metadata_scores(data_of(tmp_path, grey()))) == 0


def test_imagenet_features_are_what_the_network_pools_in_units_of_the_training_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
    data = data_of(tmp_path, images)
    embeddings = FrozenFeatures("imagenet", data.shards, orientations=1, seed=0).embeddings(data.references)
    encoder = build_encoder("tf_efficientnet_lite0", "imagenet", 4, 8, 64).eval()
    with torch.inference_mode():
        pooled = encoder.features(torch.from_numpy(images[data.references]))
    expected = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0).clamp_min(1e-3) * encoder.weight
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(embeddings[data.references], expected.numpy(), atol=1e-4)


def test_features_of_eight_orientations_are_the_same_however_an_image_is_held(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "shard-00000.npy", np.concatenate([images, np.rot90(images, axes=(1, 2))]))
    pooled = FrozenFeatures("imagenet", Shards(tmp_path), orientations=8, seed=0).pooled
    np.testing.assert_allclose(pooled[:2], pooled[2:], atol=1e-4)


def test_each_control_has_an_interval_and_the_shuffles_their_mean() -> None:
    rng = np.random.default_rng(0)
    malignant = MALIGNANT[40:]
    resamples = draw_resamples(pd.Series(np.arange(20)), malignant, 200, rng)
    scores = rng.normal(size=20) + malignant
    shuffles = [(f"shuffled_labels.{number}", rng.normal(size=20)) for number in range(5)]
    content = control_figures([("mean_colour", scores), *shuffles], malignant, resamples, 0.95)
    areas = resample_images(lambda weights: {"area": rank_auc(scores, malignant)(weights)}, resamples)["area"]
    expected = figure(roc_auc_score(malignant, scores), areas, 0.95, n_patients=6)  # with a melanoma
    assert content["mean_colour"] == {"roc_auc": expected}
    of_shuffles = [roc_auc_score(malignant, values) for _, values in shuffles]
    low, high = np.quantile(of_shuffles, [0.025, 0.975])
    expected = {"value": float(np.mean(of_shuffles)), "low": low, "high": high}
    assert content["shuffled_labels"] == {"roc_auc": pytest.approx(expected)}
    assert content["all_benign"] == {"accuracy": {"value": pytest.approx(14 / 20)}}


def test_the_stage_writes_every_control_and_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    stage.main()
    written = Path("metrics/controls.json").read_bytes()
    stage.main()
    assert Path("metrics/controls.json").read_bytes() == written
    content = json.loads(written)
    networks = ["untrained_encoder", "imagenet_features", "imagenet_votes"]
    names = ["mean_colour", "metadata", *networks, "shuffled_labels", "all_benign"]
    assert list(content) == names
    assert content["mean_colour"]["roc_auc"]["value"] > 0.8  # the drawn melanomas are darker


def test_the_stage_learns_from_training_and_validation_images_and_resamples_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv("data/shards/train/index.csv")
    in_test = table["row"] >= 60  # where alone the age says what a lesion is
    table = table.assign(sex="female", age_approx=np.where(in_test & (table["target"] == 1), "70", "50"))
    write_csv(Path("data/shards/train/index.csv"), table)
    stage.main()
    index, shards = read_shards(Path("data/shards/train"))
    data = ControlData(index, np.arange(60), np.arange(60, 90), shards, AS_THEY_ARE)
    malignant, patients = data.malignant[60:], index["patient_id"].iloc[60:]
    resamples = draw_resamples(patients, malignant, 100, np.random.default_rng(5))
    colours = regress(data, mean_colours(shards))
    expected = control_figures([("mean_colour", colours), ("shuffled_labels.0", colours)], malignant, resamples, 0.95)
    written = json.loads(Path("metrics/controls.json").read_text())
    assert written["metadata"]["roc_auc"]["value"] == 0.5
    assert written["mean_colour"]["roc_auc"] == pytest.approx(expected["mean_colour"]["roc_auc"], abs=1e-6)  # type: ignore[index]


def test_metadata_of_the_images_that_are_asked_for_teaches_nothing(tmp_path: Path) -> None:
    ages = np.where(MALIGNANT & (np.arange(N) >= 40), "70", "50")  # of references all are 50
    assert np.ptp(controls._metadata_scores(data_of(tmp_path, grey(), age_approx=ages))) == 0
