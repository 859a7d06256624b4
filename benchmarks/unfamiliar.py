"""How often pictures that no answer is for are called unfamiliar: `python -m benchmarks.unfamiliar`.

Reads the model, references and test split that `dvc repro` made. Queries are the test images as they are, and altered
beyond what dermoscopy does; then pictures that hold no lesion; and with `--jpegs` a zip of images of another source.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images

from isic_siamese.augment import LUMA
from isic_siamese.errors import run_command
from isic_siamese.predictor import Images, Predictor, read_predictor
from isic_siamese.shards import Shards, read_index
from isic_siamese.splits import read_splits, rows_of

SHARDS = Path("data/shards/train")
BLUR = 4 / 128  # standard deviation, as a part of the side


def altered(images: Images) -> Iterator[tuple[str, Images]]:
    """Yield the images `(N, H, W, 3)` as they are, and altered, by name."""
    side = images.shape[1]
    grey = (images @ np.array(LUMA)).round().astype(np.uint8)
    yield "test images as they are", images
    yield "... without colour", np.repeat(grey[..., None], 3, axis=3)
    yield "... red and blue exchanged", images[..., ::-1]
    yield "... as negatives", 255 - images
    yield "... blurred", gaussian_filter(images, (0, BLUR * side, BLUR * side, 0))
    corners = images[:, : side // 4, : side // 4]
    yield "... a corner of a quarter of the side, enlarged", np.repeat(np.repeat(corners, 4, axis=1), 4, axis=2)


def no_lesions(px: int) -> Iterator[tuple[str, Images]]:
    """Yield pictures of `px` pixels a side that hold no lesion, by name."""
    levels = np.array([0, 128, 255], np.uint8)
    yield "black, grey and white", np.broadcast_to(levels[:, None, None, None], (3, px, px, 3))
    yield "noise", np.random.default_rng(0).integers(0, 256, (3, px, px, 3), dtype=np.uint8)
    photographs = [Image.fromarray(image).resize((px, px)) for image in load_sample_images().images]
    yield "photographs (scikit-learn's temple and flower)", np.stack([np.asarray(image) for image in photographs])


def read_jpegs(path: Path, predictor: Predictor) -> Images:
    """Return the JPEGs of a zip, resized."""
    with zipfile.ZipFile(path) as archive:
        return np.stack([predictor.decode(archive.read(name)) for name in archive.namelist() if name.endswith(".jpg")])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jpegs", type=Path, help="zip of images of another source")
    options = parser.parse_args()
    predictor = read_predictor()
    references, classifier = predictor.references, predictor.classifier
    index, splits = read_index(SHARDS), read_splits(Path("data/splits.csv"))
    asked = [*altered(Shards(SHARDS).images(rows_of(index, splits, "test"))), *no_lesions(predictor.encoder.image_px)]
    if options.jpegs:
        asked.append((f"{options.jpegs.name}, another source", read_jpegs(options.jpegs, predictor)))
    sys.stdout.write(f"Unfamiliar: nearest of {len(references.table)} references beyond {classifier.familiar:.3f}\n\n")
    sys.stdout.write(
        "| query pictures | n | called unfamiliar | distance to the nearest reference, median |\n|---|---:|---:|---:|\n"
    )
    for name, images in asked:
        nearest = references.nearest(predictor.embed(images), 1)[1][:, 0]
        share = classifier.is_unfamiliar(nearest).mean()
        sys.stdout.write(f"| {name} | {len(images)} | {share:.1%} | {np.median(nearest):.3f} |\n")


if __name__ == "__main__":
    run_command(main)
