import numpy as np
import pandas as pd
import pytest

from isic_siamese import votes
from isic_siamese.arrays import Embeddings
from isic_siamese.references import References
from isic_siamese.votes import Votes
from tests.test_votes import unit


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
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :4], atol=1e-3)


def test_asking_for_more_neighbours_than_references_gives_all_of_them() -> None:
    points = unit(np.random.default_rng(0), 3)
    assert of(points).nearest(points, 5)[0].shape == (3, 3)
