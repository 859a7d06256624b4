"""The command `isic-siamese`: answer for single lesions with the model that the pipeline trained."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isic_siamese.classifier import read_classifier
from isic_siamese.embedding import embed
from isic_siamese.errors import DataError, run_command
from isic_siamese.images import Fit, decode_image
from isic_siamese.model_files import model_digest, read_model
from isic_siamese.params import Params
from isic_siamese.references import References, read_references
from isic_siamese.shard_writer import ShardsParams

MODELS = Path("data/models")
EVALUATION = Path("data/evaluation")
NOTE = "A research model, not a diagnostic device: a doctor decides."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, by default those of the shell."""
    parser = argparse.ArgumentParser(
        "isic-siamese", description="A Siamese network classifier for skin lesion images. Run in the repository's root."
    )
    commands = parser.add_subparsers(required=True)
    predict = commands.add_parser("predict", help="is it melanoma, and which known lesions is it like?")
    predict.add_argument("images", nargs="+", type=Path, metavar="lesion.jpg", help="dermoscopic image of one lesion")
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    run_command(lambda: _write_lines(predict_files(parsed.images)))


def _write_lines(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")


def predict_files(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the answer for each JPEG as lines of text: probability, decision, and the nearest reference lesions.

    Raises:
        DataError: a file is absent or is no JPEG, or there is no model yet; then nothing is answered.
        ParamsError: `params.yaml` is absent or wrong.
    """
    fit = Params().section("shards", ShardsParams).fit  # as the images that it learned from
    encoder = read_model(MODELS)
    classifier = read_classifier(EVALUATION / "classifier.json")
    references = read_references(EVALUATION, model_digest(MODELS))
    images = [_read_image(path, encoder.image_px, fit) for path in paths]
    # One at a time, so that an answer does not depend on what else was asked.
    embeddings = np.concatenate([embed(encoder, [image[None]], classifier.orientations) for image in images])
    probabilities = classifier.probabilities(references.scores(embeddings))
    nearest = references.nearest(embeddings, classifier.neighbours)
    for path, probability, rows, distances in zip(paths, probabilities, *nearest, strict=True):
        word = "melanoma" if classifier.decide(probability) else "benign"
        yield f"{path}: {word}, probability of melanoma {probability:.4f} (threshold {classifier.threshold:.4f})"
        yield f"  most like these {len(rows)} of {len(references.table)} reference lesions:"
        yield from (_describe(references, row, distance) for row, distance in zip(rows, distances, strict=True))
    yield NOTE


def _describe(references: References, row: int, distance: float) -> str:
    lesion = references.table.iloc[row]
    label = "melanoma" if lesion["target"] else "benign"
    known = lesion["diagnosis"] not in ("", "unknown", label)
    return f"    distance {distance:.3f}  {lesion['image_name']}  {label}" + (
        f": {lesion['diagnosis']}" if known else ""
    )


def _read_image(path: Path, image_px: int, fit: Fit) -> npt.NDArray[np.uint8]:
    try:
        return decode_image(path.read_bytes(), image_px, fit)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a JPEG file") from None
    except DataError as error:
        raise DataError(f"{path}: not a JPEG that can be read: {error}; give the path of a JPEG file") from None
