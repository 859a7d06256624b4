"""The reference lesions: the labelled images that every answer is a comparison with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isic_siamese.arrays import Bools, Embeddings, Floats, Ints
from isic_siamese.errors import explaining
from isic_siamese.files import write_csv, write_npy
from isic_siamese.votes import VOTES_JSON, VOTES_NPY, Votes, fit_votes, in_chunks, read_votes, write_votes

EMBEDDINGS_NPY = "embeddings.npy"
REFERENCES_CSV = "references.csv"
REFERENCE_FILES = (EMBEDDINGS_NPY, REFERENCES_CSV, VOTES_NPY, VOTES_JSON)
COLUMNS = ["row", "image_name", "diagnosis", "target"]
WORDS = np.array(["benign", "melanoma"])  # for the target 0 and 1


@dataclass(frozen=True)
class References:
    """The labelled embeddings of the training and the validation split.

    Attributes:
        embeddings: float32 `(R, D)`, unit length.
        table: `row, image_name, diagnosis, target`, R rows.
        votes: what was learned of how they answer.
    """

    embeddings: Embeddings
    table: pd.DataFrame
    votes: Votes

    @property
    def malignant(self) -> Bools:
        """The label of each reference, `(R,)`."""
        return np.asarray(self.table["target"] == 1)

    def scores(self, embeddings: Embeddings) -> Floats:
        """Return what the references say of images `(N, D)`, float64 `(N,)`, high where melanoma is likely."""
        return self.votes.scores(embeddings, self.embeddings)

    def nearest(self, embeddings: Embeddings, k: int) -> tuple[Ints, Floats]:
        """Find the `k` nearest references of each image, nearest first.

        Args:
            embeddings: float32 `(N, D)`, unit length.
            k: how many; at most R are returned.

        Returns:
            Positions among the references, int64 `(N, k)`, and Euclidean distances, float64 `(N, k)` in [0, 2].
        """
        return find_nearest(embeddings, self.embeddings, k)


def find_nearest(embeddings: Embeddings, references: Embeddings, k: int) -> tuple[Ints, Floats]:
    """Find the `k` nearest of `references` `(R, D)` for each of `embeddings` `(N, D)`; see `References.nearest`."""
    parts = [_find_nearest(part, references, min(k, len(references))) for part in in_chunks(embeddings, references)]
    positions, distances = zip(*parts, strict=True)
    return np.concatenate(positions), np.concatenate(distances)


def _find_nearest(embeddings: Embeddings, references: Embeddings, k: int) -> tuple[Ints, Floats]:
    candidates = np.sort(np.argpartition(-embeddings @ references.T, k - 1, axis=1)[:, :k], axis=1)
    # Not from the cosines: of two images that are nearly the same they have hardly a digit of the distance.
    asked = embeddings.astype(np.float64)
    distances = np.stack([np.linalg.norm(asked - references[column], axis=1) for column in candidates.T], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(distances, order, axis=1)


def pick_references(
    index: pd.DataFrame, embeddings: Embeddings, rows: Ints, temperature: float, penalty: float
) -> References:
    """Return the images of `index` at `rows` as references, and learn their votes."""
    table = index.iloc[rows][COLUMNS].reset_index(drop=True)
    votes = fit_votes(embeddings[rows], np.asarray(table["target"] == 1), temperature, penalty)
    return References(embeddings[rows], table, votes)


def write_references(folder: Path, embeddings: Embeddings, references: References) -> None:
    """Write the embeddings `(N, D)` of all images of the release, which of them are references, and how they vote."""
    write_npy(folder / EMBEDDINGS_NPY, embeddings)
    write_csv(folder / REFERENCES_CSV, references.table)
    write_votes(folder, references.votes)


def read_references(folder: Path) -> References:
    """Read what `write_references` wrote.

    Raises:
        DataError: a file is absent, or they do not belong together.
    """
    with explaining(folder, "no references of this project", "evaluate"):
        table = pd.read_csv(folder / REFERENCES_CSV, dtype=str, keep_default_na=False)[COLUMNS]
        table = table.astype({"row": "int64", "target": "int64"})
        embeddings = np.load(folder / EMBEDDINGS_NPY, mmap_mode="r")
        references = References(np.asarray(embeddings[table["row"].to_numpy()], np.float32), table, read_votes(folder))
        if not table["target"].isin([0, 1]).all() or references.votes.weights.shape != (len(table),):
            raise ValueError("its files do not belong together")
    return references
