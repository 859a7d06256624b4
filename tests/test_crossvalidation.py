from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.special import expit

from isic_siamese import crossvalidation
from isic_siamese.arrays import Bools, Embeddings, Floats
from isic_siamese.controls import ControlData, mean_colours, regress
from isic_siamese.crossvalidation import (
    CrossvalidateParams,
    Recipe,
    cross_validate,
    fold_patients,
)
from isic_siamese.errors import DataError
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.out_of_fold import CONTROLS
from isic_siamese.trainer import Trainer
from isic_siamese.votes import vote_scores
from tests.toy import PAIRS, PARAMS, RECIPE, draw_data, index_of

EVALUATE = EvaluateParams(
    temperature=0.1, vote_penalty=0.1, neighbours=1, orientations=8, resamples=200, confidence=0.95
)

TOY = Recipe(
    PAIRS,
    PARAMS.model_copy(update={"epochs": 1}),
    RECIPE,
    EVALUATE,
    margin=0.9,
)


def test_folds_hold_each_image_once_and_share_no_patient() -> None:
    index = index_of(np.random.default_rng(0).random(200) < 0.3)
    folds = fold_patients(index, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(folds)) == index["row"].tolist()
    patients = [set(index.loc[rows, "patient_id"]) for rows in folds]
    assert sum(len(one & other) for one in patients for other in patients if one is not other) == 0


def test_fewer_folds_than_one_each_for_training_validation_and_test_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 3"):
        CrossvalidateParams(folds=2, repeats=1)


def test_more_folds_than_there_are_patients_for_are_refused() -> None:
    index = index_of(np.random.default_rng(0).random(200) < 0.3)
    with pytest.raises(DataError, match=r"crossvalidate.folds: with 90 one would .*; lower it, or use a release"):
        fold_patients(index, 90, np.random.default_rng(0))


def test_every_image_is_answered_once_a_repeat_and_a_run_that_was_stopped_keeps_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = draw_data(tmp_path)
    index = index_of(data.malignant)
    folds = CrossvalidateParams(folds=3, repeats=2)
    runs = []

    def noted(*run: Any) -> Trainer:
        runs.append(run)
        return Trainer(*run)

    monkeypatch.setattr(crossvalidation, "Trainer", noted)
    answers = cross_validate(data.shards, index, TOY, folds, seed=0)
    assert answers.groupby("repeat")["row"].apply(sorted).tolist() == [index["row"].tolist()] * 2
    assert len(answers[["repeat", "patient_id", "fold"]].drop_duplicates()) == 2 * index["patient_id"].nunique()
    first, second = (part.sort_values("row")["score"].tolist() for _, part in answers.groupby("repeat"))
    assert first != second
    for name in CONTROLS:
        assert answers[f"{name}_score"].groupby(answers["fold"]).nunique().min() > 1
    kept = list(tmp_path.glob("data/checkpoints/crossvalidate/*"))
    assert len(kept) == 6 and {path.suffix for path in kept} == {".csv"}
    again = cross_validate(data.shards, index, TOY, folds, seed=0)
    pd.testing.assert_frame_equal(again, answers, check_exact=True)
    assert len(runs) == len({seed for *_, seed in runs}) == 6  # a network each, once
    assert all(run[1:4] == (TOY.train, TOY.augment, TOY.margin) for run in runs)
    assert all(run[0].pairs["left_view"].max() > 0 for run in runs)  # melanomas are oversampled


def test_a_fold_that_was_answered_in_another_way_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_data(tmp_path)
    monkeypatch.setattr(crossvalidation, "_train_and_answer", lambda *_: pd.DataFrame({"row": [0]}))
    for change in ({}, {"temperature": 0.2}, {"vote_penalty": 0.2}, {"orientations": 1}):
        recipe = replace(TOY, evaluate=EVALUATE.model_copy(update=change))
        crossvalidation._answer_fold(data, np.array([0]), recipe, 0, tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.csv"))) == 4


def test_scores_are_those_of_the_recipe(tmp_path: Path) -> None:
    trainer, scores = Trainer(draw_data(tmp_path), TOY.train, TOY.augment, TOY.margin, 0), set()
    changes: list[dict[str, float]] = [{}, {"temperature": 0.2}, {"vote_penalty": 0.2}, {"orientations": 1}]
    recipes = [replace(TOY, evaluate=EVALUATE.model_copy(update=change)) for change in changes]
    recipes.append(replace(TOY, score=lambda asked, *_: np.arange(len(asked), dtype=np.float64)))
    for recipe in recipes:  # the first trains, and the others find its checkpoint
        answers = crossvalidation._train_and_answer(trainer, np.array([3, 5, 7]), tmp_path / "run", recipe)
        scores.add(tuple(answers["score"]))
        np.testing.assert_allclose(expit(answers["score"]), answers["probability"])
    assert len(scores) == 5
    one, two, three = answers["score"]  # of what the last recipe says of the three, 0, 1 and 2
    assert three - two == pytest.approx(two - one) and one != two


def test_patients_who_share_a_picture_are_in_one_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = draw_data(tmp_path)
    index = index_of(data.malignant)
    apart = fold_patients(index, 3, np.random.default_rng([0, 0]))
    first, last = int(apart[0][0]), int(apart[2][-1])
    shard = np.load(tmp_path / "shard-00000.npy")
    shard[last] = np.rot90(shard[first])
    np.save(tmp_path / "shard-00000.npy", shard)
    answers = cross_validate(data.shards, index, TOY, CrossvalidateParams(folds=3, repeats=1), seed=0)
    fold = answers.set_index("row")["fold"]
    assert fold[first] == fold[last]


def test_training_images_answer_for_validation_and_both_for_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = draw_data(tmp_path)
    index = index_of(data.malignant)
    asked: list[tuple[int, int]] = []

    def score(
        images: Embeddings, references: Embeddings, malignant: Bools, temperature: float, penalty: float
    ) -> Floats:
        assert (temperature, penalty) == (EVALUATE.temperature, EVALUATE.vote_penalty)
        asked.append((len(images), len(references)))
        assert not {image.tobytes() for image in images} & {reference.tobytes() for reference in references}
        return vote_scores(images, references, malignant)

    monkeypatch.setattr(crossvalidation, "vote_scores", score)
    answers = cross_validate(data.shards, index, TOY, CrossvalidateParams(folds=4, repeats=1), seed=5)
    folds = fold_patients(index, 4, np.random.default_rng([5, 0]))
    sizes = [len(rows) for rows in folds]
    expected = []
    for fold in range(4):
        test, val = sizes[fold], sizes[(fold + 1) % 4]
        expected += [(val, len(index) - test - val), (test, len(index) - test)]
    assert asked == expected
    colours = mean_colours(data.shards)
    for number, rows in enumerate(folds, start=1):
        found = answers[answers["fold"] == number].sort_values("row")
        assert found["row"].tolist() == rows.tolist()
        np.testing.assert_allclose(found["brightness"], colours[rows].mean(axis=1))
        control = ControlData(index, np.setdiff1d(index["row"], rows), rows, data.shards, EVALUATE)
        np.testing.assert_allclose(found["mean_colour_score"], regress(control, colours), rtol=1e-6)
