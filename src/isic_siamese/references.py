"""The reference lesions: the training images that every answer is a comparison with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from isic_siamese.classifier import Bools, Embeddings
from isic_siamese.errors import DataError
from isic_siamese.files import replacing, write_csv

EMBEDDINGS_NPY = "embeddings.npy"
REFERENCES_CSV = "references.csv"
COLUMNS = ["row", "image_name", "diagnosis", "target"]


@dataclass(frozen=True)
class References:
    """The labelled embeddings of the training split.

    Attributes:
        embeddings: float32 `(R, D)`, unit length.
        table: `row, image_name, diagnosis, target`, R rows.
    """

    embeddings: Embeddings
    table: pd.DataFrame

    @property
    def malignant(self) -> Bools:
        """The label of each reference, `(R,)`."""
        return np.asarray(self.table["target"] == 1)


def pick_references(index: pd.DataFrame, embeddings: Embeddings, rows: npt.NDArray[np.int64]) -> References:
    """Return the images of `index` at `rows` (of the training split) as references."""
    return References(embeddings[rows], index.iloc[rows][COLUMNS].reset_index(drop=True))


def write_references(folder: Path, embeddings: Embeddings, references: References) -> None:
    """Write the embeddings `(N, D)` of all images of the release, and which of them are references."""
    with replacing(folder / EMBEDDINGS_NPY) as temporary:
        np.save(temporary, embeddings)
    write_csv(folder / REFERENCES_CSV, references.table)


def read_references(folder: Path) -> References:
    """Read what `write_references` wrote.

    Raises:
        DataError: a file is absent, or they do not belong together.
    """
    try:
        table = pd.read_csv(folder / REFERENCES_CSV, dtype=str, keep_default_na=False)[COLUMNS]
        table = table.astype({"row": "int64", "target": "int64"})
        embeddings = np.load(folder / EMBEDDINGS_NPY, mmap_mode="r")
        return References(np.asarray(embeddings[table["row"].to_numpy()], np.float32), table)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run 'dvc repro evaluate' or 'dvc pull'") from None
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{folder}: no references of this project: {error}; run 'dvc repro -f evaluate'") from None
