"""The trained model as an object, on what the stages made with a tiny encoder."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic_siamese.embedding import embed
from isic_siamese.predictor import Answer, Predictor, read_predictor
from tests.answered_project import PX, draw_images


@pytest.fixture
def predictor(here: Path) -> Predictor:
    return read_predictor(str(here / "data"))


def some_images() -> np.ndarray:
    return draw_images(np.random.default_rng(3), np.arange(6) % 2 == 0)


def numbers(answers: list[Answer]) -> list[tuple[object, ...]]:
    return [(a.malignant, a.probability, a.unfamiliar, *a.nearest["row"], *a.nearest["distance"]) for a in answers]


def test_it_embeds_and_answers_as_the_pipeline_does(predictor: Predictor, here: Path) -> None:
    images = np.load(here / "data/shards/train/shard-00000.npy")[60:]
    test = pd.read_csv(here / "data/evaluation/test.csv")
    embeddings = np.load(here / "data/evaluation/embeddings.npy")[60:]
    np.testing.assert_allclose(predictor.embed(images), embeddings, atol=1e-5)
    answers = predictor.answer(images)
    np.testing.assert_allclose([answer.probability for answer in answers], test["probability"], atol=1e-5)
    assert [answer.malignant for answer in answers] == (test["decision"] == 1).tolist()
    assert [answer.nearest["image_name"].iloc[0] for answer in answers] == test["nearest"].tolist()
    assert all(len(answer.nearest) == 3 and answer.nearest["distance"].is_monotonic_increasing for answer in answers)


def test_an_image_is_unfamiliar_where_its_nearest_reference_is_far(predictor: Predictor) -> None:
    images = some_images()
    nearest, farthest = np.transpose([a.nearest["distance"].iloc[[0, -1]] for a in predictor.answer(images)])
    assert (nearest < farthest).all()
    for at in range(len(images)):
        familiar = float(nearest[at] + farthest[at]) / 2
        asked = replace(predictor, classifier=replace(predictor.classifier, familiar=familiar))
        answers = asked.answer(images)
        assert [answer.unfamiliar for answer in answers] == (nearest > familiar).tolist() and not answers[at].unfamiliar


def test_threads_that_share_one_get_the_answers_that_one_thread_gets(predictor: Predictor) -> None:
    images = some_images()

    def ask(image: np.ndarray) -> list[tuple[object, ...]]:
        return numbers(predictor.answer(image[None]))

    alone = [ask(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, np.tile(images, (5, 1, 1, 1)))) == 5 * alone
    for (one,), other in zip(alone, numbers(predictor.answer(images)), strict=True):
        assert other == pytest.approx(one, abs=1e-4)  # whatever else is asked: last digits


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((1, PX, PX, 3), np.float32), "float32 (1, 32, 32, 3)"),
        (np.zeros((1, PX, 2 * PX, 3), np.uint8), "uint8 (1, 32, 64, 3)"),
        (np.zeros((1, 3, PX, PX), np.uint8), "uint8 (1, 3, 32, 32)"),
        (np.zeros((PX, PX, 3), np.uint8), "uint8 (1, 32, 3)"),
    ],
)
def test_images_that_the_encoder_does_not_take_are_refused(predictor: Predictor, images: np.ndarray, got: str) -> None:
    with pytest.raises(ValueError) as refusal:
        predictor.embed(images)
    assert str(refusal.value) == f"wanted images as uint8 (n, 32, 32, 3), got {got}"


@pytest.mark.parametrize("orientations", [0, 4])
def test_images_are_held_one_way_or_all_eight(predictor: Predictor, orientations: int) -> None:
    with pytest.raises(ValueError, match=f"orientations: wanted 1 or 8, got {orientations}"):
        embed(predictor.encoder, [some_images()], orientations)


def test_mirrored_and_read_only_images_are_taken(predictor: Predictor) -> None:
    images = some_images()
    mirrored = images[:, :, ::-1]
    frozen = mirrored.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(predictor.embed(mirrored), predictor.embed(frozen))
