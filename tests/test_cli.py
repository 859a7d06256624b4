"""The command, run for real on what the stages evaluate and predict made."""

import io
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from isic_siamese import cli
from isic_siamese.encoder import build_encoder
from isic_siamese.errors import DataError
from isic_siamese.files import write_csv
from isic_siamese.images import decode_image
from isic_siamese.model_files import write_model
from stages import predict
from tests.answered_project import PX, draw_images


def hand_on(here: Path, folder: Path) -> Path:
    """Copy what answers to another folder."""
    for name in ("models", "evaluation"):
        shutil.copytree(here / "data" / name, folder / "handed on" / name)
    return folder / "handed on"


def jpeg(path: Path, level: int) -> Path:
    Image.new("RGB", (64, 48), (level, level, level)).save(path, "JPEG")
    return path


@pytest.mark.usefixtures("here")
def test_the_command_answers_for_each_image_with_its_nearest_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark, bright = tmp_path / "dark.jpg", tmp_path / "bright.jpg"
    for path, image in zip((dark, bright), draw_images(np.random.default_rng(1), np.array([True, False])), strict=True):
        Image.fromarray(image).save(path, "JPEG", quality=95)
    cli.main(["predict", str(dark), str(bright)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{dark}: ") and " probability of melanoma 0." in lines[0]
    assert lines[1] == "  most like these 3 of 60 reference images:"
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
        assert image.format == "PNG" and image.size == (840, 562)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    nearest = pd.read_csv(here / "data/evaluation/references.csv").query("image_name in @plain.split()")["row"]
    assert 3 <= len(nearest) <= 6
    for row in nearest:
        middle = np.load(here / "data/shards/train/shard-00000.npy")[row, PX // 2, PX // 2]
        assert (pixels == middle).all(axis=1).any()  # each of the nearest references is there


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "n_lesions", "message"),
    [
        ("answers.jpg", 1, "answers.jpg: give it a name that ends in .png"),
        (".", 1, "that is a folder; give the name of a .png file in it"),
        ("a.png", 21, "at most 20 lesions fit"),
        ("lesion.jpg/a.png", 1, "lesion.jpg/a.png: File exists; give another path"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_any_answer(
    name: str, n_lesions: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", *[str(jpeg(tmp_path / "lesion.jpg", 60))] * n_lesions, "--picture", str(tmp_path / name)])
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err


@pytest.mark.parametrize("option", ["--picture", "--csv"])
def test_nothing_that_is_written_replaces_an_image_that_is_asked_about(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"--picture": "lesion.png", "--csv": "lesion.csv"}[option]
    lesion = jpeg(tmp_path / name, 60)
    before = lesion.read_bytes()
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", str(lesion), option, str(tmp_path / "." / name)])
    assert "that is one of the images; give another name" in capsys.readouterr().err
    assert lesion.read_bytes() == before


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
    [
        (None, "No such file"),
        (b"not a picture", "not a JPEG"),
        (b"", "not a JPEG"),
        ("folder", "no .jpg or .jpeg in that folder; give the path of a JPEG file, or of a folder of such"),
    ],
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
def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long; give JPEG files that can be read"):
        list(cli.predict_files([tmp_path / f"{'a' * 260}.jpg"]))


@pytest.mark.usefixtures("here")
def test_a_png_is_no_jpeg(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "lesion.png").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"lesion\.png: not a JPEG"):
        list(cli.predict_files([tmp_path / "lesion.png"]))


def test_a_missing_model_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lesion = jpeg(tmp_path / "lesion.jpg", 90)
    with pytest.raises(
        DataError, match=r"data/models: no such folder; run 'dvc repro' .* of the repository, or .* --data"
    ):
        list(cli.predict_files([lesion]))
    (tmp_path / "data/models").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"data/models/model\.json: no such file; run 'dvc repro train' or .* of the repos"
    ):
        list(cli.predict_files([lesion]))


def test_a_picture_without_the_images_of_the_references_says_what_to_copy(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("models", "evaluation"):
        shutil.copytree(here / "data" / name, tmp_path / "else" / name)
    lesion, picture = str(jpeg(tmp_path / "lesion.jpg", 90)), tmp_path / "answer.png"
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", lesion, "--data", str(tmp_path / "else"), "--picture", str(picture)])
    assert "else/shards/train: no such folder; copy data/shards/train there, or leave" in capsys.readouterr().err
    assert not picture.exists()


def test_a_picture_is_refused_where_the_shards_are_no_longer_those_of_the_references(
    here: Path, tmp_path: Path
) -> None:
    index = pd.read_csv(here / "data/shards/train/index.csv", dtype=str)
    data = hand_on(here, tmp_path)
    write_csv(data / "shards/train/index.csv", index.iloc[1:].assign(row=range(len(index) - 1)))
    np.save(data / "shards/train/shard-00000.npy", np.load(here / "data/shards/train/shard-00000.npy")[1:])
    answers = cli.predict_files([jpeg(tmp_path / "lesion.jpg", 90)], data, picture=tmp_path / "answers.png")
    with pytest.raises(DataError, match=r"not the images that .*/evaluation was made with; run 'dvc repro'"):
        list(answers)
    assert not (tmp_path / "answers.png").exists()


@pytest.mark.usefixtures("here")
def test_a_name_cannot_move_the_cursor_nor_stop_the_picture(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\nb\x1b\xff.jpg")
    jpeg(path, 90)
    line, *_ = cli.predict_files([path], picture=tmp_path / "answers.png", table=None)
    assert line.startswith(f"{tmp_path}/a\\nb\\x1b\\udcff.jpg: ")
    assert (tmp_path / "answers.png").exists()


@pytest.mark.usefixtures("here")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    content, pipe = jpeg(tmp_path / "lesion.jpg", 90).read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        written = pool.submit(pipe.write_bytes, content)
        line, *_ = cli.predict_files([pipe])
        assert written.result() == len(content)
    assert "probability of melanoma" in line


@pytest.mark.usefixtures("here")
def test_a_closed_output_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    cli.main(["predict", str(jpeg(tmp_path / "lesion.jpg", 90))])


@pytest.mark.usefixtures("here")
def test_references_made_with_another_model_are_refused(here: Path, tmp_path: Path) -> None:
    data = hand_on(here, tmp_path)
    write_model(data / "models", build_encoder("test_efficientnet", "none", 3, 8, PX), "crop")
    with pytest.raises(DataError, match=r"/evaluation: made with another model .*; run 'dvc repro evaluate'"):
        list(cli.predict_files([jpeg(tmp_path / "lesion.jpg", 90)], data))


def test_a_model_that_was_handed_on_answers_the_same_anywhere(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesion, data = str(jpeg(tmp_path / "lesion.jpg", 90)), hand_on(here, tmp_path)
    cli.main(["predict", lesion])
    at_home = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    cli.main(["predict", lesion, "--data", str(data)])
    assert capsys.readouterr().out == at_home
