"""The command `isic-siamese`: answer for single lesions with the model that the pipeline trained."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from isic_siamese.classifier import FAMILIAR, read_classifier
from isic_siamese.embedding import embed
from isic_siamese.errors import DataError, run_command
from isic_siamese.images import decode_image
from isic_siamese.model_files import model_digest, read_facts, read_model
from isic_siamese.references import WORDS, read_references
from isic_siamese.shards import Shards, read_index
from isic_siamese.shards_params import Fit

MODELS = Path("data/models")
EVALUATION = Path("data/evaluation")
SHARDS = Path("data/shards/train")
MOST_DRAWN = 20  # lesions on one picture
MANY = 50  # images, from which on a bar shows how far the answers are
NOTE = "A research model, not a diagnostic device: a doctor decides."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, by default those of the shell."""
    parser = argparse.ArgumentParser(
        "isic-siamese", description="A Siamese network classifier for skin lesion images. Run in the repository's root."
    )
    commands = parser.add_subparsers(required=True)
    predict = commands.add_parser("predict", help="is it melanoma, and which known lesions is it like?")
    predict.add_argument("images", nargs="+", type=Path, metavar="lesion.jpg", help="dermoscopic image of one lesion")
    predict.add_argument(
        "--picture",
        type=Path,
        metavar="answers.png",
        help="draw each lesion beside the known ones that it is most like",
    )
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold letters that the terminal cannot show
    run_command(lambda: sys.stdout.writelines(f"{line}\n" for line in predict_files(parsed.images, parsed.picture)))


@dataclass(frozen=True)
class Answer:
    """What the reference lesions say of one image.

    Attributes:
        path: the image's.
        image: as the network sees it, uint8 RGB `(S, S, 3)`.
        malignant: the decision.
        probability: of melanoma.
        unfamiliar: whether even the nearest reference lesion is far.
        nearest: the reference lesions that it is most like, nearest first: as `References.table`, and `distance`.
    """

    path: Path
    image: npt.NDArray[np.uint8]
    malignant: bool
    probability: float
    unfamiliar: bool
    nearest: pd.DataFrame


def predict_files(paths: Sequence[Path], picture: Path | None = None) -> Iterator[str]:
    """Yield the answer for each JPEG as lines of text: probability, decision, and the nearest reference lesions.

    With a `picture`, a PNG, draw each lesion beside these first.

    Raises:
        DataError: a file is absent or is no JPEG, or there is no model yet, or no such picture can be drawn; then
            nothing is answered.
    """
    _check_picture(picture, len(paths))
    for path in paths:
        _check_readable(path)  # before the model is read
    encoder, fit = read_model(MODELS), read_facts(MODELS).fit
    classifier = read_classifier(EVALUATION / "classifier.json")
    references = read_references(EVALUATION, model_digest(MODELS))
    images = [_read_image(path, encoder.image_px, fit) for path in paths]
    bar = tqdm(images, unit="image", leave=False, disable=len(images) < MANY)
    # One at a time, so that an answer does not depend on what else was asked.
    embeddings = np.concatenate([embed(encoder, [image[None]], classifier.orientations) for image in bar])
    probabilities = classifier.probabilities(references.scores(embeddings))
    nearest = references.nearest(embeddings, classifier.neighbours)
    decisions, unfamiliar = classifier.decide(probabilities), classifier.is_unfamiliar(nearest[1][:, 0])
    tables = [references.table.iloc[rows].assign(distance=distances) for rows, distances in zip(*nearest, strict=True)]
    answers = list(map(Answer, paths, images, decisions, probabilities, unfamiliar, tables))
    if picture:
        _draw(picture, answers, classifier.threshold)
    for answer in answers:
        word = "no reliable answer" if answer.unfamiliar else WORDS[int(answer.malignant)]
        p = f"{answer.probability:.4f} (threshold {classifier.threshold:.4f})"
        yield f"{_printable(str(answer.path))}: {word}, probability of melanoma {p}"
        if answer.unfamiliar:
            usual = f"{FAMILIAR:.0%} of validation images have one within {classifier.familiar:.3f}"
            yield f"  unlike any reference lesion: {usual}"
        yield f"  most like these {len(answer.nearest)} of {len(references.table)} reference images:"
        yield from (_describe(lesion) for _, lesion in answer.nearest.iterrows())
    yield NOTE


def _describe(lesion: "pd.Series[Any]") -> str:
    label = WORDS[lesion["target"]]
    known = lesion["diagnosis"] not in ("", "unknown", label)
    return f"    distance {lesion['distance']:.3f}  {lesion['image_name']}  {label}" + (
        f": {lesion['diagnosis']}" if known else ""
    )


def _printable(text: str) -> str:
    """Return a name with what would move the cursor, or is no letter at all, spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _check_picture(path: Path | None, n_lesions: int) -> None:
    if path and path.is_dir():
        raise DataError(f"--picture {path}: that is a folder; give the name of a PNG in it")
    if path and path.suffix.lower() != ".png":
        raise DataError(f"--picture {path}: a PNG is drawn; give it a name that ends in .png")
    if path and n_lesions > MOST_DRAWN:
        raise DataError(
            f"--picture {path}: at most {MOST_DRAWN} lesions fit on one, got {n_lesions}; draw fewer at once"
        )


def _draw(path: Path, answers: Sequence[Answer], threshold: float) -> None:
    # Only now, because matplotlib takes longer to load than an answer.
    from isic_siamese.sheets import Tile, reference_tiles, write_sheet

    shards, names, lines = Shards(SHARDS), read_index(SHARDS)["image_name"], []
    for answer in answers:
        if names.reindex(answer.nearest["row"]).tolist() != answer.nearest["image_name"].tolist():
            raise DataError(f"{SHARDS}: not the images that {EVALUATION} was made with; run 'dvc repro'")
        said = f"{WORDS[int(answer.malignant)]}, p = {answer.probability:.3f}\n(threshold {threshold:.3f})"
        text = f"{_printable(answer.path.stem)[:18]}\n{'unlike any reference' if answer.unfamiliar else said}"
        lines.append([Tile(answer.image, text, None), *reference_tiles(answer.nearest, shards)])
    title = "The lesion and the references it is most like, at the distance d; outlined as they were found"
    try:
        write_sheet(path, title, lines)
    except OSError as error:
        raise DataError(f"--picture {path}: {error.strerror}; give another path, or mend that") from None


def _check_readable(path: Path) -> None:
    if path.is_fifo():
        return  # to open and close it would end whoever writes into it
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a JPEG file") from None


def _read_image(path: Path, image_px: int, fit: Fit) -> npt.NDArray[np.uint8]:
    try:
        return decode_image(path.read_bytes(), image_px, fit)
    except DataError as error:
        raise DataError(f"{path}: {error}; give the path of a JPEG file that can be read") from None


if __name__ == "__main__":
    main()
