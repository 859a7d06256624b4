"""Divide the patients into train, validation and test.

Reads: data/shards/train/
Writes: data/splits.csv, metrics/split.json
"""

from pathlib import Path

import numpy as np

from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.leaks import shared_pictures, thumbnails
from isic_siamese.params import Params
from isic_siamese.shards import READ_BATCH, Shards, read_index
from isic_siamese.splits import SplitParams, count_splits, split_patients


def main() -> None:
    """Run the stage."""
    params = Params()
    folder = Path("data/shards/train")
    index, shards = read_index(folder), Shards(folder)
    shared = shared_pictures(index, thumbnails(shards.batches(index["row"].to_numpy(), READ_BATCH, "compare pictures")))
    rng = np.random.default_rng(params.common.seed)
    splits = split_patients(index, params.section("split", SplitParams).fractions, rng, shared)
    write_csv(Path("data/splits.csv"), splits)
    write_json(Path("metrics/split.json"), count_splits(index, splits))


if __name__ == "__main__":
    run_command(main)
