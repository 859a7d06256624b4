import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from isic_siamese import controls
from isic_siamese.bootstrap import draw_resamples
from isic_siamese.controls import ControlData, FrozenFeatures, control_figures
from isic_siamese.encoder import build_encoder
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.shards import Shards
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


def test_metadata_that_is_silent_has_no_skill(tmp_path: Path) -> None:
    assert np.ptp(controls._metadata_scores(data_of(tmp_path, grey()))) == 0


def test_imagenet_features_are_what_the_network_pools_in_units_of_the_training_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
    data = data_of(tmp_path, images)
    embeddings = FrozenFeatures("imagenet", data.shards, orientations=1).embeddings(data.references)
    encoder = build_encoder("tf_efficientnet_lite0", "imagenet", 4, 8, 64).eval()
    with torch.inference_mode():
        pooled = encoder.features(torch.from_numpy(images[data.references]))
    expected = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0).clamp_min(1e-3) * encoder.weight
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(embeddings[data.references], expected.numpy(), atol=1e-4)


def test_each_control_has_an_interval_and_the_shuffles_their_mean() -> None:
    rng = np.random.default_rng(0)
    malignant = MALIGNANT[40:]
    resamples = draw_resamples(pd.Series(np.arange(20)), malignant, 200, rng)
    scores = rng.normal(size=20) + malignant
    shuffles = [(f"shuffled_labels.{number}", rng.normal(size=20)) for number in range(5)]
    content = control_figures([("mean_colour", scores), *shuffles], malignant, resamples, 0.95)
    colour, shuffled = content["mean_colour"], content["shuffled_labels"]
    assert colour["roc_auc"]["low"] < roc_auc_score(malignant, scores) < colour["roc_auc"]["high"]  # type: ignore[index]
    mean = np.mean([roc_auc_score(malignant, values) for _, values in shuffles])
    assert shuffled["roc_auc"]["value"] == pytest.approx(mean)  # type: ignore[index]
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
