"""Draw the balanced pair index of each split.

Reads: data/shards/train/index.csv, data/splits.csv
Writes: data/pairs/{train,val,test}.csv, metrics/pairs.json
"""

from pathlib import Path

import numpy as np

from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.pairs import PairsParams, count_pairs, draw_pairs
from isic_siamese.params import Params
from isic_siamese.shards import read_index
from isic_siamese.splits import SPLITS, read_splits, rows_of


def main() -> None:
    """Run the stage."""
    params = Params()
    section = params.section("pairs", PairsParams)
    index, splits = read_index(Path("data/shards/train")), read_splits(Path("data/splits.csv"))
    malignant = index["target"].to_numpy() == 1
    rng = np.random.default_rng(params.common.seed)
    counts = {}
    for split in SPLITS:
        rows = rows_of(index, splits, split)
        pairs = draw_pairs(rows, malignant[rows], section, rng, oversample=split == "train")
        write_csv(Path(f"data/pairs/{split}.csv"), pairs)
        counts[split] = count_pairs(pairs, malignant)
    write_json(Path("metrics/pairs.json"), counts)


if __name__ == "__main__":
    run_command(main)
