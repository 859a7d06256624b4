from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic_siamese import votes
from isic_siamese.arrays import Embeddings
from isic_siamese.errors import DataError
from isic_siamese.files import write_csv
from isic_siamese.references import References, pick_references, read_references, write_references
from isic_siamese.votes import Votes
from tests.test_votes import clusters, unit


def of(embeddings: Embeddings) -> References:
    return References(embeddings, pd.DataFrame({"target": 0}, range(len(embeddings))), Votes(np.ones(1), 0.0, 0.1))


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_nearest_references_equal_a_full_sort(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "CHUNK", chunk)
    rng = np.random.default_rng(3)
    images, references = unit(rng, 6), unit(rng, 15)
    nearest, distances = of(references).nearest(images, 4)
    between = np.linalg.norm(images[:, None] - references[None], axis=2)
    np.testing.assert_array_equal(nearest, np.argsort(between, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :4], atol=1e-6)


def test_asking_for_more_neighbours_than_references_gives_all_of_them() -> None:
    points = unit(np.random.default_rng(0), 3)
    assert of(points).nearest(points, 5)[0].shape == (3, 3)


def test_equally_near_references_come_in_their_order() -> None:
    near, far = unit(np.random.default_rng(0), 2)
    for seed in range(20):
        alike = np.random.default_rng(seed).permutation(60) < 25
        nearest, _ = of(np.where(alike[:, None], near, far)).nearest(near[None], 25)
        np.testing.assert_array_equal(nearest[0], np.flatnonzero(alike))


def test_an_image_is_at_no_distance_from_itself_and_at_two_from_its_opposite() -> None:
    points = unit(np.random.default_rng(0), 200)  # of which rounding puts some cosines above 1
    for image, point in zip(points, points, strict=True):
        nearest, distances = of(np.stack([-point, point])).nearest(image[None], 2)
        assert nearest.tolist() == [[1, 0]]
        np.testing.assert_allclose(distances, [[0, 2]], atol=1e-6)


def picked() -> tuple[Embeddings, References]:
    """Embeddings, and as references those at the odd rows, with names and diagnoses that look like missing values."""
    embeddings, malignant = clusters(40)
    names = {"row": range(40), "image_name": "NA", "diagnosis": "", "target": malignant.astype(int)}
    return embeddings, pick_references(pd.DataFrame(names), embeddings, np.arange(1, 40, 2), 0.2, 0.5)


def test_references_vote_for_their_own_class() -> None:
    embeddings, references = picked()
    malignant = clusters(40)[1][1::2]
    np.testing.assert_array_equal(references.malignant, malignant)
    expected = votes.vote_scores(embeddings, embeddings[1::2], malignant, 0.2, 0.5)
    np.testing.assert_array_equal(references.scores(embeddings), expected)


def test_references_read_back_as_they_were_written(tmp_path: Path) -> None:
    embeddings, references = picked()
    write_references(tmp_path, embeddings, references)
    again = read_references(tmp_path)
    pd.testing.assert_frame_equal(again.table, references.table)
    np.testing.assert_array_equal(again.embeddings, references.embeddings)
    np.testing.assert_array_equal(again.scores(embeddings), references.scores(embeddings))


@pytest.mark.parametrize("change", [lambda table: table[:-1], lambda table: table.assign(target=2)])
def test_files_of_references_that_do_not_belong_together_are_refused(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    embeddings, references = picked()
    write_references(tmp_path, embeddings, references)
    write_csv(tmp_path / "references.csv", change(references.table))
    with pytest.raises(DataError, match="its files do not belong together"):
        read_references(tmp_path)
