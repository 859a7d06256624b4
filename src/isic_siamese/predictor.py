"""The trained model as an object: it embeds images of lesions and answers for them, from a command or from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from isic_siamese.arrays import Embeddings, Floats
from isic_siamese.checksums import check_checksums
from isic_siamese.classifier import Classifier, read_classifier
from isic_siamese.embedding import embed
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.errors import DataError
from isic_siamese.images import decode_image
from isic_siamese.model_files import read_model
from isic_siamese.references import References, read_references
from isic_siamese.shards_params import Fit

DATA = Path("data")
MODELS, EVALUATION = "models", "evaluation"  # in it

Images = npt.NDArray[np.uint8]  # RGB (N, S, S, 3), or one of them, (S, S, 3)


@dataclass(frozen=True)
class Answer:
    """What the reference lesions say of one image.

    Attributes:
        image: as it was asked about, uint8 RGB `(S, S, 3)`.
        malignant: the decision.
        probability: of melanoma.
        unfamiliar: whether even the nearest reference lesion is far; then the answer is not reliable.
        nearest: the reference lesions that it is most like, nearest first: as `References.table`, and `distance`.
    """

    image: Images
    malignant: bool
    probability: float
    unfamiliar: bool
    nearest: pd.DataFrame


@dataclass(frozen=True)
class Predictor:
    """A trained encoder, the references it is asked to compare with, and how their votes become an answer.

    It is not changed by use, so threads may share one.

    Attributes:
        encoder: on the best device there is.
        fit: how an image that is not square is made square.
        references: the labelled lesions.
        classifier: calibration and thresholds.
    """

    encoder: SiameseEncoder
    fit: Fit
    references: References
    classifier: Classifier

    def decode(self, jpeg: bytes) -> Images:
        """Return the image in the bytes of a JPEG file as the encoder takes it, uint8 RGB `(S, S, 3)`.

        Raises:
            DataError: the bytes are not a whole JPEG.
        """
        return decode_image(jpeg, self.encoder.image_px, self.fit)

    def embed(self, images: Images | Sequence[Images], task: str | None = None) -> Embeddings:
        """Embed images as `decode` returns them, float32 `(N, D)`, unit length; with a `task`, a bar names it."""
        bar = tqdm(images, task, unit="image", leave=False, disable=task is None)
        # One at a time, so that an answer does not depend on what else was asked.
        return embed(self.encoder, (image[None] for image in bar), self.classifier.orientations)

    def probabilities(self, embeddings: Embeddings) -> Floats:
        """Return the probability of melanoma of each of `embeddings` `(N, D)`, float64 `(N,)`."""
        return self.classifier.probabilities(self.references.scores(embeddings))

    def answer(self, images: Images | Sequence[Images], task: str | None = None) -> list[Answer]:
        """Answer for each of `images`, as `decode` returns them; with a `task`, a bar names it."""
        embeddings = self.embed(images, task)
        probabilities = self.probabilities(embeddings)
        positions, distances = self.references.nearest(embeddings, self.classifier.neighbours)
        decisions, unfamiliar = self.classifier.decide(probabilities), self.classifier.is_unfamiliar(distances[:, 0])
        nearest = [
            self.references.table.iloc[rows].assign(distance=away)
            for rows, away in zip(positions, distances, strict=True)
        ]
        return list(map(Answer, images, decisions.tolist(), probabilities.tolist(), unfamiliar.tolist(), nearest))

    def answer_jpegs(self, jpegs: Sequence[bytes]) -> list[Answer]:
        """Answer for the bytes of each JPEG file.

        Raises:
            DataError: one of them is not a whole JPEG.
        """
        return self.answer([self.decode(jpeg) for jpeg in jpegs])


def read_predictor(data: Path | str = DATA) -> Predictor:
    """Read what the pipeline made: `models/` and `evaluation/` of the folder `data`.

    Raises:
        DataError: a file is absent, or they do not belong together.
    """
    models, evaluation = Path(data) / MODELS, Path(data) / EVALUATION
    if not models.is_dir():
        advice = "run 'dvc repro' or 'dvc pull' in the root of the repository, or give by --data where it is"
        raise DataError(f"{models}: no such folder; {advice}")
    encoder, facts = read_model(models)
    check_checksums(evaluation, models, "evaluate")
    return Predictor(encoder, facts.fit, read_references(evaluation), read_classifier(evaluation))
