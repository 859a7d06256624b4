"""Measure what simple means reach on the same splits: a network must beat them clearly.

Reads: data/shards/train/, data/splits.csv
Writes: metrics/controls.json
"""

from pathlib import Path

import numpy as np

from isic_siamese.bootstrap import draw_resamples
from isic_siamese.controls import ControlData, control_figures, control_scores
from isic_siamese.devices import be_deterministic, pick_device
from isic_siamese.errors import run_command
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_json
from isic_siamese.params import Params
from isic_siamese.shards import read_shards
from isic_siamese.splits import read_splits, rows_of

SHARDS = Path("data/shards/train")
SPLITS_CSV = Path("data/splits.csv")
METRICS = Path("metrics/controls.json")


def main() -> None:
    """Write the ROC AUC of each control."""
    be_deterministic(pick_device())
    params = Params()
    section, seed = params.section("evaluate", EvaluateParams), params.common.seed
    (index, shards), splits = read_shards(SHARDS), read_splits(SPLITS_CSV)
    known, asked = rows_of(index, splits, "train", "val"), rows_of(index, splits, "test")
    data = ControlData(index, known, asked, shards, section)
    test, malignant = index.iloc[data.test], data.malignant[data.test]
    resamples = draw_resamples(test["patient_id"], malignant, section.resamples, np.random.default_rng(seed))
    write_json(METRICS, control_figures(control_scores(data, seed), malignant, resamples, section.confidence))


if __name__ == "__main__":
    run_command(main)
