"""Which files the command takes, which it writes, and which it refuses."""

import os
from pathlib import Path

import pandas as pd
import pytest

from isic_siamese import cli
from isic_siamese.errors import DataError
from isic_siamese.predictor import read_predictor
from tests.test_cli import jpeg


@pytest.mark.usefixtures("here")
def test_a_folder_stands_for_its_jpegs_and_a_table_has_a_row_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lesions"
    folder.mkdir()
    files = [jpeg(folder / name, level) for name, level in (("a.jpg", 90), ("b.JPEG", 120), ("c.JPG", 200))]
    (folder / "._a.jpg").write_bytes(b"what macOS leaves in zips")
    os.mkfifo(folder / "pipe.jpg")  # to read it would be to wait for ever
    (folder / "notes.txt").write_text("no image")
    cli.main(["predict", str(folder)])
    plain = capsys.readouterr().out
    assert [line.partition(": ")[0] for line in plain.splitlines() if "probability" in line] == [*map(str, files)]
    cli.main(["predict", str(folder), "--csv", str(tmp_path / "answers.csv")])
    assert capsys.readouterr().out == f"answers in {tmp_path}/answers.csv: 3\n{cli.NOTE}\n"
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table["path"].tolist() == [*map(str, files)]
    answers = read_predictor().answer_jpegs([path.read_bytes() for path in files])
    for row, answer in zip(table.itertuples(), answers, strict=True):
        assert f"{row.path}: " in plain and f"probability of melanoma {answer.probability:.4f} " in plain
        first = answer.nearest.iloc[0]
        assert (row.decision, row.unfamiliar) == (answer.malignant, answer.unfamiliar)
        assert (row.nearest, row.nearest_target) == (first["image_name"], first["target"])
        assert (row.probability, row.nearest_distance) == pytest.approx(
            (answer.probability, first["distance"]), abs=1e-6
        )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("problem", ["not a JPEG", "No such file or directory"])
def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path, problem: str) -> None:
    jpeg(tmp_path / "b.jpg", 90)
    (tmp_path / "folder.jpg").mkdir()
    for name in ("a.jpg", "c.jpg"):
        if problem == "not a JPEG":
            (tmp_path / name).write_bytes(b"not a picture")
        else:
            (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(DataError) as refusal:
        list(cli.predict_files([tmp_path]))
    first, second = str(refusal.value).splitlines()
    assert first.startswith(f"{tmp_path}/a.jpg: {problem}") and f"{tmp_path}/c.jpg: {problem}" in second
    assert second.endswith("give JPEG files that can be read")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "that is a folder; give the name of a .csv file in it"),
        ("lesion.jpg", "lesion.jpg: give it a name that ends in .csv"),
        ("lesion.jpg/a.csv", "lesion.jpg/a.csv: File exists; give another path"),
        (f"{'a' * 260}.csv", "File name too long; give another path"),
    ],
)
def test_a_table_that_cannot_be_written_is_told_and_no_photograph_is_overwritten(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesion = jpeg(tmp_path / "lesion.jpg", 60)
    before = lesion.read_bytes()
    with pytest.raises(SystemExit, match="1"):
        cli.main(["predict", "--csv", str(tmp_path / name), str(lesion)])
    captured = capsys.readouterr()
    assert captured.out == "" and "--csv " in captured.err and message in captured.err
    assert lesion.read_bytes() == before
