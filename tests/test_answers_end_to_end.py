"""The stages evaluate and predict, run for real on drawn shards with a tiny encoder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from isic_siamese.areas import rank_auc
from isic_siamese.bootstrap import draw_resamples, figure, resample_images
from isic_siamese.classifier import platt_calibration, read_classifier
from isic_siamese.errors import DataError
from isic_siamese.files import write_csv
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.predictor import read_predictor
from isic_siamese.references import read_references
from isic_siamese.splits import rows_of
from isic_siamese.votes import vote_scores
from stages import evaluate, predict
from tests.answered_project import N_TEST, N, make_project


@pytest.mark.usefixtures("here")
def test_the_rows_of_the_test_split_reproduce_the_reported_area() -> None:
    table = pd.read_csv("data/evaluation/test.csv")
    assert table["row"].tolist() == list(range(60, 90))
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert metrics["roc_auc"]["value"] == pytest.approx(roc_auc_score(table["target"], table["score"]), abs=1e-6)
    assert metrics["counts"]["test"]["images"] == 30
    assert metrics["counts"]["test"]["melanomas"] == table["target"].sum() == 3
    assert metrics["sensitivity"]["value"] == pytest.approx(table.query("target == 1")["decision"].mean(), abs=1e-6)


@pytest.mark.usefixtures("here")
def test_intervals_are_over_patients() -> None:
    table = pd.read_csv("data/evaluation/test.csv")
    malignant, scores = table["target"].to_numpy() == 1, table["score"].to_numpy()
    resamples = draw_resamples(table["patient_id"], malignant, 100, np.random.default_rng(5))
    assert resamples.n_rarer == 3 and len(resamples.multiplicities[0]) == 10
    areas = resample_images(lambda weights: {"area": rank_auc(scores, malignant)(weights)}, resamples)["area"]
    expected = figure(roc_auc_score(malignant, scores), areas, 0.95, resamples.n_rarer)
    assert json.loads(Path("metrics/evaluate.json").read_text())["roc_auc"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("here")
def test_references_are_the_training_and_the_validation_split() -> None:
    references = read_references(Path("data/evaluation"))
    assert references.table["row"].tolist() == list(range(60))
    assert references.embeddings.shape == (60, 8)
    assert np.load("data/evaluation/embeddings.npy").shape == (N, 8)
    nearest = pd.read_csv("data/evaluation/test.csv")["nearest"]
    assert nearest.isin(references.table["image_name"]).all()


@pytest.mark.usefixtures("here")
def test_the_calibration_is_of_validation_images_that_training_images_alone_answered() -> None:
    embeddings, malignant = np.load("data/evaluation/embeddings.npy"), pd.read_csv("data/shards/train/index.csv").target
    labels = malignant.to_numpy() == 1
    scores = vote_scores(embeddings[30:60], embeddings[:30], labels[:30], temperature=0.1, penalty=0.3)
    classifier = read_classifier(Path("data/evaluation"))
    assert (classifier.slope, classifier.intercept) == pytest.approx(platt_calibration(scores, labels[30:60]))
    assert classifier.threshold == pytest.approx(labels[30:60].mean())


def test_running_again_writes_the_same_bytes(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    predict.main()
    made = [path for top in ("data/evaluation", "data/predictions", "metrics") for path in Path(top).rglob("*.*")]
    assert len(made) >= 15
    for path in made:
        assert path.read_bytes() == (here / path).read_bytes(), path


@pytest.mark.usefixtures("here")
def test_the_submission_has_a_probability_for_each_test_image() -> None:
    submission = pd.read_csv("data/predictions/submission.csv")
    assert list(submission) == ["image_name", "target"]
    assert len(submission) == N_TEST and submission["target"].between(0, 1).all()
    counts = json.loads(Path("metrics/predict.json").read_text())
    assert counts["images"] == N_TEST and counts["unfamiliar_fraction"] == pytest.approx(counts["unfamiliar"] / N_TEST)


def test_a_release_without_test_images_gets_an_empty_submission(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("models", "evaluation"):
        (tmp_path / "data" / name).symlink_to(here / "data" / name)
    write_csv(tmp_path / "data/shards/test/index.csv", pd.DataFrame({"row": [], "image": []}))
    monkeypatch.chdir(tmp_path)
    predict.main()
    assert Path("data/predictions/submission.csv").read_text() == "image_name,target\n"


def test_missing_references_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"references\.csv: no such file; run 'dvc repro evaluate'"):
        read_references(tmp_path)


@pytest.mark.usefixtures("here")
def test_references_that_do_not_fit_their_embeddings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "references.csv").write_bytes(Path("data/evaluation/references.csv").read_bytes())
    np.save(tmp_path / "embeddings.npy", np.zeros((3, 8), np.float32))
    with pytest.raises(DataError, match="no references of this project"):
        read_references(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("references.csv", lambda content: content[: content.rindex(b"\n", 0, -1) + 1]),  # without its last line
        ("references.csv", lambda content: content[:-2] + b"2\n"),
        ("votes.npy", lambda _: b""),
        ("votes.json", lambda _: b'{"intercept": null, "temperature": 0.1}'),
    ],
)
def test_files_of_references_that_do_not_belong_together_are_refused(
    name: str, change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    shutil.copytree("data/evaluation", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=r"no references of this project: .*; run 'dvc repro -f evaluate'"):
        read_references(tmp_path)


@pytest.mark.parametrize(
    "moved", [("IP_0000029", "train"), ("IP_0000000", "val"), ("IP_0000029", "val"), ("IP_0000019", "test")]
)
def test_a_model_of_other_splits_is_not_tested(
    moved: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    splits = pd.read_csv("data/splits.csv")
    splits.loc[splits["patient_id"] == moved[0], "split"] = moved[1]
    write_csv(Path("data/splits.csv"), splits)
    params = PairsParams(views_per_block=16, pairs_per_block=16)
    index = pd.read_csv("data/shards/train/index.csv")
    rows = rows_of(index, splits, "test")
    pairs = draw_pairs(rows, index["target"].to_numpy()[rows] == 1, params, np.random.default_rng(0), oversample=False)
    write_csv(Path("data/pairs/test.csv"), pairs)
    with pytest.raises(DataError, match=r"data/models: trained .* other images than train and val of .*; run 'dvc rep"):
        evaluate.main()
    assert not Path("data/evaluation").exists() and not Path("metrics").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["embeddings.npy", "references.csv", "votes.npy", "votes.json", "classifier.json"])
def test_answering_files_of_two_runs_are_never_mixed(name: str, tmp_path: Path) -> None:
    """Each is changed so that it could still be read."""
    for part in ("models", "evaluation"):
        shutil.copytree(f"data/{part}", tmp_path / part)
    path = tmp_path / "evaluation" / name
    if path.suffix == ".npy":
        np.save(path, np.load(path) * np.float32(1.01))
    else:
        path.write_text(
            path.read_text().replace("ISIC_0000001", "ISIC_0000008").replace(": 0.1", ": 0.2").replace("3,", "4,")
        )
    with pytest.raises(DataError, match=rf"{name}: not what was written with the rest; run 'dvc repro -f evaluate'"):
        read_predictor(tmp_path)


def test_a_leak_fails_the_run_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    shard = Path("data/shards/train/shard-00000.npy")
    images = np.load(shard)
    images[70] = np.rot90(images[3])
    np.save(shard, images)
    with pytest.raises(DataError, match=r"1 near-identical images \(ISIC_0000070 and ISIC_0000003\)"):
        evaluate.main()
    assert not Path("data/evaluation").exists() and not Path("metrics").exists()
