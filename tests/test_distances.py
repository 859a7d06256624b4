import tracemalloc

import numpy as np
import pytest

from isic_siamese.distances import CHUNK, pair_distances


def test_distances_are_those_of_the_embeddings_that_a_pair_names() -> None:
    embeddings = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    assert pair_distances(embeddings, np.array([0, 2]), np.array([1, 0])).tolist() == pytest.approx([2**0.5, 2.0])


def test_the_distances_of_many_pairs_take_no_more_memory_than_those_of_some() -> None:
    embeddings = np.random.default_rng(0).random((64, 512), np.float32)
    left, right = np.random.default_rng(1).integers(0, 64, (2, 20_000))
    slow = np.linalg.norm(embeddings[left].astype(np.float64) - embeddings[right], axis=1)
    tracemalloc.start()
    distances = pair_distances(embeddings, left, right)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(distances, slow)
    assert peak < 3 * 8 * CHUNK  # all at once would take 20,000 x 512 x 8 bytes twice
