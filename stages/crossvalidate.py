"""Cross-validate over patients. No part of `dvc repro`: `dvc repro stages/dvc.yaml` runs it.

Reads: data/shards/train/
Writes: data/crossvalidation.csv, metrics/crossvalidate.json, metrics/plots/crossvalidate_roc.png
"""

from pathlib import Path

from isic_siamese.augment import AugmentParams
from isic_siamese.crossvalidation import CrossvalidateParams, Recipe, cross_validate
from isic_siamese.errors import run_command
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import write_csv, write_json
from isic_siamese.groups import image_groups
from isic_siamese.out_of_fold import pool, pooled_figures, pooled_groups, write_pooled_roc
from isic_siamese.pairs import PairsParams
from isic_siamese.params import Params
from isic_siamese.shards import read_shards
from isic_siamese.training_data import TrainParams


def read_recipe(params: Params) -> Recipe:
    """Return the recipe of `params.yaml`."""
    return Recipe(
        pairs=params.section("pairs", PairsParams),
        train=params.section("train", TrainParams),
        augment=params.section("augment", AugmentParams),
        evaluate=params.section("evaluate", EvaluateParams),
        margin=params.common.margin,
    )


def main() -> None:
    """Run the stage."""
    params, folder = Params(), Path("data/shards/train")
    recipe = read_recipe(params)
    folds = params.section("crossvalidate", CrossvalidateParams)
    index, shards = read_shards(folder)
    answers = cross_validate(shards, index, recipe, folds, params.common.seed)
    write_csv(Path("data/crossvalidation.csv"), answers)
    pooled = pool(answers, recipe.evaluate, params.common.seed)
    figures = pooled_figures(pooled) | {"groups": pooled_groups(pooled, image_groups(index))}
    write_json(Path("metrics/crossvalidate.json"), figures)
    picture = Path("metrics/plots/crossvalidate_roc.png")
    write_pooled_roc(picture, pooled, figures, drawn=params.common.release == "demo")


if __name__ == "__main__":
    run_command(main)
