import dataclasses
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from isic_siamese import figures
from isic_siamese.evaluation import Evaluation
from isic_siamese.figures import write_curves, write_map, write_misses
from isic_siamese.measures import Answers
from isic_siamese.pictures import write_figure
from isic_siamese.references import References
from isic_siamese.shards import Shards
from isic_siamese.votes import Votes
from tests.test_evaluation import evaluated
from tests.test_measures import some_answers
from tests.test_votes import unit

CURVES = ("roc.png", "precision_recall.png", "reliability.png", "confusion.png")


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluated(some_answers())


def test_pictures_are_drawn_to_the_same_bytes_whatever_the_settings_of_the_user(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    write_curves(tmp_path / "one", some_answers(), evaluation, drawn=False)
    with mpl.rc_context({"font.size": 20, "figure.facecolor": "black", "savefig.dpi": 30}):
        write_curves(tmp_path / "two", some_answers(), evaluation, drawn=False)
    for name in CURVES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_picture_says_nothing_of_when_and_with_what_it_was_drawn(tmp_path: Path) -> None:
    write_figure(tmp_path / "empty.png", lambda _: None)
    with Image.open(tmp_path / "empty.png") as image:
        assert set(image.info) <= {"dpi"}


def test_pictures_can_be_drawn_where_nothing_is_flagged(tmp_path: Path) -> None:
    silent = dataclasses.replace(some_answers(), decisions=np.zeros(80, bool))
    write_curves(tmp_path, silent, evaluated(silent), drawn=False)
    assert all((tmp_path / name).stat().st_size > 5000 for name in CURVES)


def test_the_roc_has_the_band_the_area_and_the_threshold_of_the_evaluation(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(figures, "draw_roc", lambda *given: drawn.append(given))
    write_curves(tmp_path, some_answers(), evaluation, drawn=False)
    _, title, (curve,), (ends, confidence), decisions, _ = drawn[0]
    assert title == "ROC, test split: 80 images, 20 melanoma" and curve.area == evaluation.figures["roc_auc"]
    assert np.trapezoid(curve.sensitivity, curve.false_alarm_rate) == pytest.approx(curve.area["value"])
    assert ends is evaluation.band and confidence == 0.95 and decisions is evaluation.figures


@pytest.mark.parametrize("drawn", [False, True])
def test_dermatologists_stand_beside_real_lesions_alone(
    drawn: bool, evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(figures, "draw_roc", lambda *arguments: given.append(arguments))
    write_curves(tmp_path, some_answers(), evaluation, drawn)
    *_, studies = given[0]
    assert studies == (not drawn)


def test_the_panels_of_the_reliability_end_alike_and_hold_every_interval(evaluation: Evaluation) -> None:
    figure, rare = Figure(), dataclasses.replace(some_answers(), malignant=np.arange(80) == 0)
    rare = dataclasses.replace(rare, probabilities=rare.probabilities / 9, uncalibrated=rare.probabilities / 4)
    figures.draw_reliability(figure, "test split", rare, dataclasses.replace(evaluation, confidence=0.9))
    assert figure.legends[0].get_texts()[1].get_text().startswith("90 % Clopper-Pearson")
    ends = [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
    assert ends[0] == ends[1] and ends[0][0] == ends[0][1] and ends[0][0][1] < 1
    for axes in figure.axes:
        (bars,) = axes.collections
        heights = np.stack([np.asarray(path.vertices)[:, 1] for path in bars.get_paths()])
        assert (heights[:, 0] >= 0).all() and (heights[:, 1] - heights[:, 0] > 0.2).all()
        assert heights.max() < ends[0][1][1]
    table = figures._bin_shares(np.repeat([0.2, 0.6], 8), np.arange(16) >= 8, 0.9)
    assert table["low"].tolist() == pytest.approx([0, 0.05 ** (1 / 8)])
    assert table["high"].tolist() == pytest.approx([1 - 0.05 ** (1 / 8), 1])


def test_the_worst_misses_are_the_surest_of_each_kind() -> None:
    answers = dataclasses.replace(
        some_answers(8),
        malignant=np.array([1, 1, 1, 0, 0, 0, 0, 0], bool),
        decisions=np.array([0, 0, 1, 1, 1, 0, 0, 1], bool),
        scores=np.array([-0.1, -0.3, 0.5, 0.2, 0.4, -0.5, -0.1, 0.3]),
    )
    assert figures.worst_misses(answers).tolist() == [1, 0, 4, 7, 3]
    assert figures.worst_misses(answers, most=1).tolist() == [1, 4]


def sheet_of(folder: Path, answers: Answers) -> tuple[pd.DataFrame, Shards, References]:
    """What the misses of 10 answers are drawn with: their index, images of one level each, and 30 references."""
    np.save(folder / "shard-00000.npy", np.repeat(np.arange(40, dtype=np.uint8), 16 * 16 * 3).reshape(40, 16, 16, 3))
    index = pd.DataFrame({"row": range(10), "image_name": [f"ISIC_{row}" for row in range(10)]})
    table = pd.DataFrame({"row": range(10, 40), "image_name": [f"ISIC_{row}" for row in range(10, 40)], "target": 0})
    table.loc[answers.nearest[answers.nearest_malignant], "target"] = 1
    return index, Shards(folder), References(unit(np.random.default_rng(0), 30), table, Votes(np.ones(30), 0.0, 0.1))


def test_the_sheet_shows_each_miss_beside_its_nearest_references(tmp_path: Path) -> None:
    answers = some_answers(10)
    index, shards, references = sheet_of(tmp_path, answers)
    lines = figures.miss_lines(answers, index, shards, references)
    assert [line[0].image[0, 0, 0] for line in lines] == figures.worst_misses(answers).tolist()
    for line in lines:
        assert len(line) == 6
        position = int(line[0].image[0, 0, 0])
        kind = "missed" if answers.malignant[position] else "false alarm"
        assert line[0].text == f"ISIC_{position}\n{kind}, p = {answers.probabilities[position]:.3f}"
        assert line[0].malignant == answers.malignant[position]
        for tile, near, distance in zip(line[1:], answers.nearest[position], answers.distances[position], strict=True):
            word = "melanoma" if tile.malignant else "benign"
            assert tile.malignant == references.malignant[near]
            assert tile.text == f"ISIC_{near + 10}\n{word}, d = {distance:.3f}" and (tile.image == near + 10).all()


@pytest.mark.parametrize("perfect", [True, False])
def test_a_sheet_is_written_with_misses_and_without(perfect: bool, tmp_path: Path) -> None:
    answers = some_answers(10)
    if perfect:
        answers = dataclasses.replace(answers, decisions=answers.malignant)
    write_misses(tmp_path / "misses.png", answers, *sheet_of(tmp_path, answers))
    with Image.open(tmp_path / "misses.png") as image:
        assert image.width == 1260 and (image.height < 350) == perfect


def test_a_sheet_shows_five_neighbours_however_many_there_are(tmp_path: Path) -> None:
    answers = some_answers(10)
    many = dataclasses.replace(
        answers, nearest=np.tile(np.arange(30), (10, 1)), distances=np.tile(np.linspace(0, 1, 30), (10, 1))
    )
    write_misses(tmp_path / "misses.png", many, *sheet_of(tmp_path, answers))
    with Image.open(tmp_path / "misses.png") as image:
        assert image.width == 1260


def test_the_map_counts_every_image() -> None:
    figure = Figure()
    malignant = np.arange(20) < 5
    figures.draw_map(figure, "title", unit(np.random.default_rng(0), 20), malignant)
    assert [len(np.asarray(points.get_offsets())) for points in figure.axes[0].collections] == [15, 5]


@pytest.mark.parametrize("drawn", [False, True])
def test_the_map_says_what_images_it_is_of(drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(figures, "draw_map", lambda *arguments: given.append(arguments))
    malignant = np.arange(2000) < 5
    write_map(tmp_path / "map.png", unit(np.random.default_rng(0), 2000), malignant, drawn)
    assert given[0][1] == f"Embeddings, test split\n2,000{' drawn' if drawn else ''} images, 5 melanoma"
