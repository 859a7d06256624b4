"""Train the Siamese encoder with contrastive loss over the pair index.

Reads: data/shards/train/, data/splits.csv, data/pairs/train.csv, data/pairs/val.csv
Writes: data/models/, metrics/train.json, metrics/plots/train.csv, metrics/plots/train_distances.png
"""

from pathlib import Path

import numpy as np
import pandas as pd

from isic_siamese import ranks
from isic_siamese.augment import AugmentParams
from isic_siamese.checkpoint import Checkpoint
from isic_siamese.distances import pair_distances
from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.histograms import write_histograms
from isic_siamese.model_files import write_model
from isic_siamese.pairs import read_pairs
from isic_siamese.params import Params
from isic_siamese.shards import read_shards
from isic_siamese.shards_params import ShardsParams
from isic_siamese.splits import read_splits, rows_of, seen_images
from isic_siamese.trainer import Trainer
from isic_siamese.training import Trained, train
from isic_siamese.training_data import TrainingData, TrainParams

CHECKPOINTS = Path("data/checkpoints/train")
CURVE = Path("metrics/plots/train.csv")
DISTANCES = Path("metrics/plots/train_distances.png")


def main() -> None:
    """Run the stage, in one process or as one of several that torchrun started, of which the first writes."""
    with ranks.joined():
        params = Params()
        data, seen = read_data()
        val_pairs = read_pairs(Path("data/pairs/val.csv"), data.val_rows)  # before hours of training
        section, recipe = params.section("train", TrainParams), params.section("augment", AugmentParams)
        fit = params.section("shards", ShardsParams).fit
        trainer = Trainer(data, section, recipe, params.common.margin, params.common.seed)
        trained = train(trainer, CHECKPOINTS, write_curve)
        if ranks.rank() == 0:
            margin = params.common.margin if section.loss == "contrastive" else None
            write_model(Path("data/models"), trained.encoder, fit, margin, seen)
            write_results(trained, data, val_pairs, margin)
            Checkpoint(CHECKPOINTS, trainer.key).forget()


def read_data() -> tuple[TrainingData, str]:
    """Read what training reads, and the checksum of the images seen."""
    folder = Path("data/shards/train")
    (index, shards), splits = read_shards(folder), read_splits(Path("data/splits.csv"))
    train_rows, val_rows = (rows_of(index, splits, split) for split in ("train", "val"))
    pairs = read_pairs(Path("data/pairs/train.csv"), train_rows)
    data = TrainingData(shards, index["target"].to_numpy() == 1, train_rows, val_rows, pairs)
    return data, seen_images(index, splits)


def write_curve(history: pd.DataFrame) -> None:
    """Write the curve so far, after each epoch, so that whoever watches the plot sees it grow."""
    if ranks.rank() == 0:
        write_csv(CURVE, history)


def write_results(trained: Trained, data: TrainingData, pairs: pd.DataFrame, margin: float | None) -> None:
    """Write the figures, and how far apart the pairs of the validation split were."""
    write_json(Path("metrics/train.json"), trained.summary())
    write_curve(trained.history)  # again, for a run that was killed after its last epoch and has none to come
    titles = {"Validation pairs, epoch 1": trained.first}
    titles[f"Validation pairs, epoch {int(trained.summary()['best_epoch'])}, the best"] = trained.best
    left, right = (np.searchsorted(data.val_rows, pairs[side]) for side in ("left", "right"))
    panels = {title: pair_distances(embeddings, left, right) for title, embeddings in titles.items()}
    write_histograms(DISTANCES, panels, pairs["same"].to_numpy() == 1, margin)


if __name__ == "__main__":
    run_command(main)
