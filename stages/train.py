"""Train the Siamese encoder with contrastive loss over the pair index.

Reads: data/shards/train/, data/splits.csv, data/pairs/train.csv
Writes: data/models/, metrics/train.json, metrics/plots/train.csv
"""

from pathlib import Path

from isic_siamese.augment import AugmentParams
from isic_siamese.encoder import write_model
from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.pairs import PairsParams, read_pairs
from isic_siamese.params import Params
from isic_siamese.shards import Shards, read_index
from isic_siamese.splits import read_splits, rows_of
from isic_siamese.trainer import Trainer, TrainingData, TrainParams
from isic_siamese.training import train

CURVE = Path("metrics/plots/train.csv")


def main() -> None:
    """Run the stage."""
    params = Params()
    folder = Path("data/shards/train")
    index, splits = read_index(folder), read_splits(Path("data/splits.csv"))
    data = TrainingData(
        shards=Shards(folder),
        malignant=index["target"].to_numpy() == 1,
        train_rows=rows_of(index, splits, "train"),
        val_rows=rows_of(index, splits, "val"),
        pairs=read_pairs(Path("data/pairs/train.csv")),
        pairs_per_step=params.section("pairs", PairsParams).pairs_per_block,
    )
    section, recipe = params.section("train", TrainParams), params.section("augment", AugmentParams)
    trainer = Trainer(data, section, recipe, params.common.margin, params.common.seed)
    # Written after each epoch, so that whoever watches the plot sees it grow.
    trained = train(trainer, Path("data/checkpoints/train"), lambda history: write_csv(CURVE, history))
    write_model(Path("data/models"), trained.encoder)
    write_json(Path("metrics/train.json"), trained.summary())


if __name__ == "__main__":
    run_command(main)
