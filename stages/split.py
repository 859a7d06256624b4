"""Divide the patients into train, validation and test.

Reads: data/shards/train/
Writes: data/splits.csv, metrics/split.json
"""

from pathlib import Path

import numpy as np

from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.leaks import shard_thumbnails, shared_pictures
from isic_siamese.params import Params
from isic_siamese.shards import read_shards
from isic_siamese.splits import SplitParams, count_splits, split_patients


def main() -> None:
    """Run the stage."""
    params = Params()
    folder = Path("data/shards/train")
    index, shards = read_shards(folder)
    shared = shared_pictures(index, shard_thumbnails(shards, "compare pictures"))
    rng = np.random.default_rng(params.common.seed)
    splits = split_patients(index, params.section("split", SplitParams).fractions, rng, shared)
    write_csv(Path("data/splits.csv"), splits)
    write_json(Path("metrics/split.json"), count_splits(index, splits))


if __name__ == "__main__":
    run_command(main)
