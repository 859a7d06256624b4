"""How far apart the embeddings of pairs are, in memory that does not grow with the number of pairs."""

import numpy as np

from isic_siamese.arrays import Embeddings, Floats, Ints

CHUNK = 1_000_000  # numbers of embeddings held at a time: all pairs of a release at once would take gigabytes


def pair_distances(embeddings: Embeddings, left: Ints, right: Ints) -> Floats:
    """Return the Euclidean distances of pairs, float64 `(P,)`.

    Args:
        embeddings: `(N, D)`.
        left: which of them are on the left of each pair, `(P,)`.
        right: likewise.
    """
    n_parts = 1 + len(left) * embeddings.shape[1] // CHUNK
    parts = zip(np.array_split(left, n_parts), np.array_split(right, n_parts), strict=True)
    distances = [np.linalg.norm(embeddings[one].astype(np.float64) - embeddings[other], axis=1) for one, other in parts]
    return np.concatenate(distances)
