"""The stages evaluate and predict, and the command, run for real on drawn shards with a tiny encoder."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from isic_siamese import cli
from isic_siamese.classifier import platt_calibration, read_classifier
from isic_siamese.encoder import build_encoder
from isic_siamese.errors import DataError
from isic_siamese.files import replacing, write_csv
from isic_siamese.images import decode_image
from isic_siamese.model_files import model_digest, write_model
from isic_siamese.pairs import PairsParams, draw_pairs
from isic_siamese.references import read_references
from isic_siamese.votes import vote_scores
from stages import evaluate, predict

N, N_TEST, PX = 90, 7, 32
PARAMS = """
release: demo
seed: 5
margin: 1.0
shards: {image_px: 32, fit: crop, images_per_shard: 100, exclude: []}
evaluate: {temperature: 0.1, vote_penalty: 0.3, neighbours: 3, orientations: 8, resamples: 100, confidence: 0.95}
"""


def draw_images(rng: np.random.Generator, malignant: np.ndarray) -> np.ndarray:
    """Noise, darker where malignant, in overlapping amounts."""
    level = 150 - 60 * malignant + rng.normal(0, 20, len(malignant))
    noise = rng.normal(0, 15, (len(malignant), PX, PX, 3))
    return np.clip(level[:, None, None, None] + noise, 0, 255).astype(np.uint8)


def make_project(folder: Path) -> None:
    """Write everything that comes before `evaluate`: three images a patient, every third patient with a melanoma."""
    rng = np.random.default_rng(0)
    numbers = np.arange(N)
    malignant = (numbers % 3 == 0) & (numbers // 3 % 3 == 0)
    index = pd.DataFrame(
        {
            "image_name": [f"ISIC_{number:07}" for number in numbers],
            "patient_id": [f"IP_{number // 3:07}" for number in numbers],
            "lesion_id": [f"IL_{number:07}" for number in numbers],
            "sex": np.where(numbers // 3 % 2, "male", "female"),
            "age_approx": (20 + numbers // 3 * 2).astype(str),
            "anatom_site_general_challenge": "torso",
            "diagnosis": np.where(malignant, "melanoma", "nevus"),
            "benign_malignant": np.where(malignant, "malignant", "benign"),
            "target": malignant.astype(int),
            "width": 1024,
            "height": 768,
        }
    )
    shards = folder / "data/shards"
    index.insert(0, "row", numbers)
    write_csv(shards / "train/index.csv", index)
    write_csv(shards / "train/removed.csv", pd.DataFrame({"image_name": ["ISIC_0009999"], "reason": ["duplicate"]}))
    test = pd.DataFrame({"row": range(N_TEST), "image": [f"ISIC_9{number:06}" for number in range(N_TEST)]})
    write_csv(shards / "test/index.csv", test)
    for part, labels in (("train", malignant), ("test", np.arange(N_TEST) % 2 == 0)):
        with replacing(shards / part / "shard-00000.npy") as temporary:
            np.save(temporary, draw_images(rng, labels))
    split = np.repeat(["train", "val", "test"], 10)
    write_csv(folder / "data/splits.csv", pd.DataFrame({"patient_id": index["patient_id"].unique(), "split": split}))
    params = PairsParams(views_per_block=16, pairs_per_block=16)
    write_csv(folder / "data/pairs/test.csv", draw_pairs(numbers[60:], malignant[60:], params, rng, oversample=False))
    torch.manual_seed(0)
    write_model(folder / "data/models", build_encoder("test_efficientnet", "none", 3, 8, PX), "crop")
    (folder / "params.yaml").write_text(PARAMS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
        predict.main()
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


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
def test_references_are_the_training_and_the_validation_split() -> None:
    references = read_references(Path("data/evaluation"), model_digest(Path("data/models")))
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
    classifier = read_classifier(Path("data/evaluation/classifier.json"))
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


def jpeg(path: Path, level: int) -> Path:
    Image.new("RGB", (64, 48), (level, level, level)).save(path, "JPEG")
    return path


@pytest.mark.usefixtures("here")
def test_the_command_answers_for_each_image_with_its_nearest_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark, bright = jpeg(tmp_path / "dark.jpg", 60), jpeg(tmp_path / "bright.jpg", 200)
    cli.main(["predict", str(dark), str(bright)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{dark}: ") and " probability of melanoma 0." in lines[0]
    assert lines[1] == "  most like these 3 of 60 reference lesions:"
    assert all("ISIC_" in line and line.split()[0] == "distance" for line in lines[2:5])
    assert lines[5].startswith(f"{bright}: ")
    assert "not a diagnostic device" in lines[-1]


@pytest.mark.usefixtures("here")
def test_the_command_says_that_a_picture_is_unlike_any_known_lesion(tmp_path: Path) -> None:
    lesion = Image.fromarray(np.load("data/shards/train/shard-00000.npy")[0])
    lesion.save(tmp_path / "lesion.jpg", "JPEG", quality=95)
    stripes = np.where(np.arange(32)[:, None, None] // 4 % 2, [255, 0, 255], [0, 255, 0]).astype(np.uint8)
    Image.fromarray(np.broadcast_to(stripes, (32, 32, 3))).save(tmp_path / "stripes.jpg", "JPEG")
    lines = list(cli.predict_files([tmp_path / "lesion.jpg", tmp_path / "stripes.jpg"]))
    warned = [number for number, line in enumerate(lines) if "unlike any reference lesion" in line]
    assert warned == [next(number for number, line in enumerate(lines) if "stripes.jpg" in line) + 1]
    assert "stripes.jpg: no reliable answer, probability of melanoma 0." in lines[warned[0] - 1]
    assert ": benign, " in lines[0] or ": melanoma, " in lines[0]


def test_the_command_draws_each_lesion_beside_its_nearest_references(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesions = [str(jpeg(tmp_path / f"{level}.jpg", level)) for level in (60, 200)]
    cli.main(["predict", *lesions])
    plain = capsys.readouterr().out
    cli.main(["predict", *lesions, "--picture", str(tmp_path / "new/answers.png")])
    assert capsys.readouterr().out == plain
    with Image.open(tmp_path / "new/answers.png") as image:
        assert image.format == "PNG" and image.size == (840, 540)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    nearest = pd.read_csv(here / "data/evaluation/references.csv").query("image_name in @plain.split()")["row"]
    assert 3 <= len(nearest) <= 6
    for row in nearest:
        middle = np.load(here / "data/shards/train/shard-00000.npy")[row, PX // 2, PX // 2]
        assert (pixels == middle).all(axis=1).any()  # each of the nearest references is there


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "n_lesions", "message"),
    [("answers.jpg", 1, "a PNG is drawn; give it a name that ends in .png"), ("a.png", 21, "at most 20 lesions fit")],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_any_answer(
    name: str, n_lesions: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", *[str(jpeg(tmp_path / "lesion.jpg", 60))] * n_lesions, "--picture", str(tmp_path / name)])
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err


def test_the_command_and_the_stage_give_an_image_the_same_probability(here: Path, tmp_path: Path) -> None:
    path = tmp_path / "ramp.jpg"
    ramp = np.linspace(0, 255, 120).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (40, 120, 3))).save(path, "JPEG")
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    for name in ("data/models", "data/evaluation", "params.yaml"):
        (project / name).symlink_to(here / name)
    write_csv(project / "data/shards/test/index.csv", pd.DataFrame({"row": [0], "image": ["ramp"]}))
    np.save(project / "data/shards/test/shard-00000.npy", decode_image(path.read_bytes(), PX, "crop")[None])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        predict.main()
        (line, *_) = cli.predict_files([path])
    probability = pd.read_csv(project / "data/predictions/submission.csv")["target"][0]
    assert f"probability of melanoma {probability:.4f} " in line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"not a picture", "not a JPEG"), (b"", "not a JPEG"), ("folder", "Is a directory")],
)
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_answered(
    content: bytes | str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jpg"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content:
        bad.mkdir()
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", str(jpeg(tmp_path / "good.jpg", 90)), str(bad)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: {bad}" in captured.err and message in captured.err


@pytest.mark.usefixtures("here")
def test_a_png_is_no_jpeg(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "lesion.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"lesion\.png: not a JPEG"):
        list(cli.predict_files([tmp_path / "lesion.png"]))


def test_a_missing_model_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data/models/model\.json: no such file; run 'dvc repro train'"):
        list(cli.predict_files([jpeg(tmp_path / "lesion.jpg", 90)]))


def test_missing_references_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"references\.csv: no such file; run 'dvc repro evaluate'"):
        read_references(tmp_path, "")


@pytest.mark.usefixtures("here")
def test_references_made_with_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, build_encoder("test_efficientnet", "none", 3, 8, PX), "crop")
    monkeypatch.setattr(cli, "MODELS", tmp_path)
    with pytest.raises(DataError, match=r"data/evaluation: made with another model .*; run 'dvc repro evaluate'"):
        list(cli.predict_files([jpeg(tmp_path / "lesion.jpg", 90)]))


@pytest.mark.usefixtures("here")
def test_references_that_do_not_fit_their_embeddings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "references.csv").write_bytes(Path("data/evaluation/references.csv").read_bytes())
    np.save(tmp_path / "embeddings.npy", np.zeros((3, 8), np.float32))
    (tmp_path / "model.json").write_text('{"sha256": ""}')
    with pytest.raises(DataError, match="no references of this project"):
        read_references(tmp_path, "")


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
