"""The command `isic-siamese`: answer for single lesions with the model that the pipeline trained."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pandas as pd

from isic_siamese.classifier import FAMILIAR
from isic_siamese.errors import DataError, run_command
from isic_siamese.files import write_csv
from isic_siamese.predictor import DATA, EVALUATION, Answer, Images, Predictor, read_predictor
from isic_siamese.references import WORDS
from isic_siamese.shards import read_shards

MOST_DRAWN = 20  # lesions on one picture
MANY = 50  # images, from which on a bar shows how far the answers are
SUFFIXES = (".jpg", ".jpeg")  # of what is answered for in a folder, in either case
NOTE = "A research model, not a diagnostic device: a doctor decides."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, by default those of the shell."""
    parser = argparse.ArgumentParser(
        "isic-siamese", description="A Siamese network classifier for skin lesion images: answers of a trained model."
    )
    commands = parser.add_subparsers(required=True)
    predict = commands.add_parser("predict", help="is it melanoma, and which known lesions is it like?")
    predict.add_argument(
        "paths", nargs="+", type=Path, metavar="lesion.jpg", help="dermoscopic image of one lesion, or a folder of such"
    )
    predict.add_argument(
        "--picture",
        type=Path,
        metavar="answers.png",
        help=f"draw each lesion, at most {MOST_DRAWN}, beside the known ones that it is most like",
    )
    predict.add_argument(
        "--csv", type=Path, metavar="answers.csv", help="write a row for each image, and print no answers"
    )
    predict.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="folder",
        help="holds models/ and evaluation/, for a picture shards/train/ too (default: %(default)s)",
    )
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold letters that the terminal cannot show
    lines = predict_files(parsed.paths, parsed.data, parsed.picture, parsed.csv)
    run_command(lambda: sys.stdout.writelines(f"{line}\n" for line in lines))


def predict_files(
    paths: Sequence[Path], data: Path = DATA, picture: Path | None = None, table: Path | None = None
) -> Iterator[str]:
    """Yield the answer for each JPEG as lines of text: probability, decision, and the nearest reference lesions.

    Args:
        paths: of JPEGs, and of folders, of which all JPEGs are meant.
        data: the folder of the model; see `read_predictor`.
        picture: a PNG, on which each lesion, at most `MOST_DRAWN`, is drawn beside its nearest reference lesions.
        table: a CSV that gets a row for each image; then no answers are yielded.

    Raises:
        DataError: a file is absent or is no JPEG, or there is no model yet, or no such picture or table can be; then
            nothing is answered.
    """
    paths = [file for path in paths for file in (_list_folder(path) if _is_folder(path) else [path])]
    _check_output("--csv", table, ".csv")
    _check_output("--picture", picture, ".png")
    if picture and len(paths) > MOST_DRAWN:
        most = f"at most {MOST_DRAWN} lesions fit on one, got {len(paths)}; draw fewer at once"
        raise DataError(f"--picture {picture}: {most}")
    _check_readable(paths)  # before the model is read
    for option, made in (("--csv", table), ("--picture", picture)):
        if made and _is_one_of(option, made, paths):
            raise DataError(f"{option} {made}: that is one of the images; give another name")
    predictor = read_predictor(data)
    images = _read_images(paths, predictor)
    answers = predictor.answer(images, "answer" if len(images) >= MANY else None)
    lesions = list(zip(paths, answers, strict=True))
    if picture:
        _draw(picture, data, lesions, predictor.classifier.threshold)
    if table:
        with _writing("--csv", table):
            write_csv(table, _tabulate(lesions))
        yield f"answers in {_printable(str(table))}: {len(lesions):,}"
    else:
        for path, answer in lesions:
            yield from _tell(path, answer, predictor)
    yield NOTE


def _tell(path: Path, answer: Answer, predictor: Predictor) -> Iterator[str]:
    """Yield an answer as lines of text."""
    classifier = predictor.classifier
    word = "no reliable answer" if answer.unfamiliar else WORDS[int(answer.malignant)]
    p = f"{answer.probability:.4f} (threshold {classifier.threshold:.4f})"
    yield f"{_printable(str(path))}: {word}, probability of melanoma {p}"
    if answer.unfamiliar:
        usual = f"{FAMILIAR:.0%} of validation images have one within {classifier.familiar:.3f}"
        yield f"  unlike any reference lesion: {usual}"
    yield f"  most like these {len(answer.nearest)} of {len(predictor.references.table)} reference images:"
    yield from (_describe(lesion) for _, lesion in answer.nearest.iterrows())


def _tabulate(lesions: Sequence[tuple[Path, Answer]]) -> pd.DataFrame:
    """Return a row for each answer, its columns named as those of `data/evaluation/test.csv`."""
    paths, answers = zip(*lesions, strict=True)
    nearest = pd.concat([answer.nearest.head(1) for answer in answers])
    return pd.DataFrame(
        {
            "path": [_printable(str(path)) for path in paths],
            "probability": [answer.probability for answer in answers],
            "decision": [int(answer.malignant) for answer in answers],
            "nearest": nearest["image_name"].to_numpy(),
            "nearest_target": nearest["target"].to_numpy(),
            "nearest_distance": nearest["distance"].to_numpy(),
            "unfamiliar": [int(answer.unfamiliar) for answer in answers],
        }
    )


def _describe(lesion: "pd.Series[Any]") -> str:
    label = WORDS[lesion["target"]]
    known = lesion["diagnosis"] not in ("", "unknown", label)
    return f"    distance {lesion['distance']:.3f}  {lesion['image_name']}  {label}" + (
        f": {lesion['diagnosis']}" if known else ""
    )


def _printable(text: str) -> str:
    """Return a name with what would move the cursor, or is no letter at all, spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _check_output(option: str, path: Path | None, suffix: str) -> None:
    if path and _is_folder(path):
        raise DataError(f"{option} {path}: that is a folder; give the name of a {suffix} file in it")
    if path and path.suffix.lower() != suffix:  # else an option before the images would overwrite the first of them
        raise DataError(f"{option} {path}: give it a name that ends in {suffix}")


def _is_one_of(option: str, path: Path, paths: Sequence[Path]) -> bool:
    with _writing(option, path):  # where its name is too long, it cannot be asked for either
        return path.exists() and any(path.samefile(other) for other in paths)


@contextmanager
def _writing(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{option} {path}: {error.strerror}; give another path, or mend that") from None


def _draw(picture: Path, data: Path, lesions: Sequence[tuple[Path, Answer]], threshold: float) -> None:
    # Only now, because matplotlib takes longer to load than an answer.
    from isic_siamese.sheets import Tile, reference_tiles, write_sheet

    folder = data / "shards/train"
    if not _is_folder(folder):
        raise DataError(f"--picture: {folder}: no such folder; copy data/shards/train there, or leave the picture out")
    index, shards = read_shards(folder)
    names, lines = index["image_name"], []
    for path, answer in lesions:
        if names.reindex(answer.nearest["row"]).tolist() != answer.nearest["image_name"].tolist():
            raise DataError(f"{folder}: not the images that {data / EVALUATION} was made with; run 'dvc repro'")
        said = f"{WORDS[int(answer.malignant)]}, p = {answer.probability:.3f}\n(threshold {threshold:.3f})"
        text = f"{_printable(path.stem)[:18]}\n{'unlike any reference' if answer.unfamiliar else said}"
        lines.append([Tile(answer.image, text, None), *reference_tiles(answer.nearest, shards)])
    title = "The lesion and the references it is most like, at the distance d; outlined as they were found"
    with _writing("--picture", picture):
        write_sheet(picture, title, lines)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name that is too long, which is told where the file is opened
        return False


def _list_folder(folder: Path) -> list[Path]:
    """Return the JPEGs of a folder, by name, but not those of its folders, nor hidden ones, nor pipes."""
    files = (path for path in folder.iterdir() if path.name[0] != "." and (path.is_file() or not path.exists()))
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(
            f"{folder}: no {' or '.join(SUFFIXES)} in that folder; give the path of a JPEG file, or of a folder of such"
        )
    return found


def _check_readable(paths: Sequence[Path]) -> None:
    problems = []
    for path in paths:
        try:
            if not path.is_fifo():  # to open and close it would end whoever writes into it
                path.open("rb").close()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise DataError("\n".join(problems) + "; give JPEG files that can be read")


def _read_images(paths: Sequence[Path], predictor: Predictor) -> list[Images]:
    images, problems = [], []
    for path in paths:
        try:
            images.append(predictor.decode(path.read_bytes()))
        except DataError as error:
            problems.append(f"{path}: {error}")
    _refuse(problems)
    return images
