"""Cross-validate our recipe beside its control and two public ones, on the same encoder, folds and images.

Run `python -m benchmarks.recipes` where `data/shards/train` is; it prints a table and writes the answers of each recipe
to `data/recipes/`. A fold that is done is kept, so a run that was stopped goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.neural_network import MLPClassifier

from isic_siamese import model_card
from isic_siamese.arrays import Bools, Embeddings, Floats
from isic_siamese.bootstrap import figure_text
from isic_siamese.checkpoint import run_key
from isic_siamese.comparison import compare
from isic_siamese.crossvalidation import CHECKPOINTS, CrossvalidateParams, Recipe, cross_validate
from isic_siamese.errors import run_command
from isic_siamese.files import write_csv
from isic_siamese.out_of_fold import CONTROLS, pool, pooled_figures
from isic_siamese.params import Params
from isic_siamese.shards import read_shards
from stages.crossvalidate import read_recipe

SHARDS, ANSWERS = Path("data/shards/train"), Path("data/recipes")
OURS = "ours"
# Of recipes in which every layer learns; with more epochs they overfit here, and ours learns too slowly for so few.
EPOCHS, RATE, DIM = 6, 1e-3, 128
FIGURES = {
    "ROC AUC": "roc_auc",
    "average precision": "average_precision",
    "balanced accuracy": "balanced_accuracy",
    "ROC AUC, brightness-matched": "brightness_matched_roc_auc",
}


def vote_by_margin(asked: Embeddings, references: Embeddings, malignant: Bools, margin: float) -> Floats:
    """Return the share of the references that speak for melanoma, `(N,)` in [0, 1].

    One that is nearer than `margin` speaks for its own class, any other for the other class.
    """
    parts = []
    for block in np.array_split(asked.astype(np.float64), 1 + len(asked) // 256):
        near = np.sqrt(np.clip(2 - 2 * block @ references.T, 0, 4)) < margin
        parts.append((near == malignant).mean(axis=1))
    return np.concatenate(parts)


def ask_a_head(asked: Embeddings, references: Embeddings, malignant: Bools) -> Floats:
    """Train a small classifier on the embeddings of the references, which stay as they are, and return its answers."""
    head = MLPClassifier((256, 64, 32), batch_size=64, max_iter=80, early_stopping=True, random_state=0)
    return np.asarray(head.fit(references, malignant).predict_proba(asked)[:, 1], np.float64)


def changed(recipe: Recipe, loss: str, **more: Any) -> Recipe:
    """Return the recipe with another loss, every layer learning, every image augmented, and asked as it is."""
    learning: dict[str, object] = {"loss": loss, "cross_entropy_weight": 0.0, "frozen_groups": 0}
    learning |= {"epochs": EPOCHS, "learning_rate": RATE, "embedding_dim": DIM}
    return replace(
        recipe,
        train=recipe.train.model_copy(update=learning),
        augment=recipe.augment.model_copy(update={"apply_to": "all"}),
        evaluate=recipe.evaluate.model_copy(update={"orientations": 1}),
        **more,
    )


def recipes(ours: Recipe) -> dict[str, Recipe]:
    """Return the recipes by name, ours first."""
    control = replace(ours, train=ours.train.model_copy(update={"loss": "cross_entropy"}))
    return {
        OURS: ours,
        "control: ours with cross-entropy only": control,
        "triplet, frozen head": changed(ours, "triplet", margin=1.0, score=ask_a_head),
        "contrastive, majority vote": changed(
            ours, "contrastive", margin=0.5, score=partial(vote_by_margin, margin=0.5)
        ),
    }


def file_name(name: str) -> str:
    """Return the name of a recipe as that of a file."""
    return name.replace(",", "").replace(":", "").replace(" ", "-")


def rows(name: str, answers: pd.DataFrame, recipe: Recipe, seed: int) -> list[str]:
    """Write the answers, and return the line of the table; after ours also those of the controls."""
    path = ANSWERS / f"{file_name(name)}.csv"
    write_csv(path, answers)
    figures: dict[str, Any] = pooled_figures(pool(answers, recipe.evaluate, seed))
    cells = [figure_text(figures[key]) for key in FIGURES.values()]
    if name == OURS:
        return [f"| {name} | {' | '.join(cells)} | |", *(control_row(control, figures) for control in CONTROLS)]
    gain: Any = compare(ANSWERS / f"{OURS}.csv", path)["gain"]
    return [f"| {name} | {' | '.join(cells)} | {figure_text(gain['roc_auc'], '+')} |"]


def control_row(name: str, figures: Mapping[str, Any]) -> str:
    """Return the line of a control, which was fitted in the same folds and decides nothing."""
    area, matched = (figure_text(figures[f"{part}{name}_roc_auc"]) for part in ("", "brightness_matched_"))
    gain = figure_text(figures[f"{name}_less_network_roc_auc"], "+")
    return f"| control: {model_card.CONTROLS[name]} | {area} | | | {matched} | {gain} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a line a recipe."""
    parser = argparse.ArgumentParser("benchmarks.recipes", description="Cross-validate our recipe beside others.")
    parser.parse_args(arguments)
    params, (index, shards) = Params(), read_shards(SHARDS)
    folds = params.section("crossvalidate", CrossvalidateParams)
    head = ["recipe", *FIGURES, "ROC AUC, minus ours"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    here = run_key([Path(__file__).read_bytes()])  # the code of `score`
    for name, recipe in recipes(read_recipe(params)).items():
        folder = CHECKPOINTS / f"{file_name(name)}-{here}" if recipe.score else CHECKPOINTS
        answers = cross_validate(shards, index, recipe, folds, params.common.seed, folder)
        lines += rows(name, answers, recipe, params.common.seed)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_command(main)
