"""What the trained model says of labelled images of another source: `python -m benchmarks.external <a release>`.

Reads the model and the references that `dvc repro` made. The release is a folder with a ground truth and the zip of its
images, as `docs/data.md` has it; nothing is learned from it.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np

from isic_siamese.arrays import Floats
from isic_siamese.bootstrap import draw_resamples, figure_text, mean_figures
from isic_siamese.errors import run_command
from isic_siamese.evaluation import EvaluateParams, count_answers
from isic_siamese.measures import MOST, answer, point_measures, rate_bases, resampled_measures
from isic_siamese.params import Params
from isic_siamese.predictor import read_predictor
from isic_siamese.release import TRAIN_FOLDER, TRAIN_ZIP, TRUTH_CSV, naming, read_truth, refuse

RATES = ("balanced_accuracy", "sensitivity", "specificity")
SHOWN = ("roc_auc", *RATES, "brier", "calibration_slope", "calibration_intercept")


def main() -> None:
    """Print counts, and figures with their intervals over patients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="its folder")
    folder, params = parser.parse_args().release, Params()
    section, predictor = params.section("evaluate", EvaluateParams), read_predictor()
    truth = read_truth(folder / TRUTH_CSV)
    known = truth["image_name"][truth["image_name"].isin(predictor.references.table["image_name"])]
    refuse(
        folder / TRUTH_CSV, naming("images that the model was trained or chosen with", known), "take another release"
    )
    with zipfile.ZipFile(folder / TRAIN_ZIP) as archive:
        images = [predictor.decode(archive.read(f"{TRAIN_FOLDER}{name}.jpg")) for name in truth["image_name"]]
    malignant = truth["target"].to_numpy() == 1
    answers = answer(predictor.classifier, predictor.references, predictor.embed(images, "embed"), malignant)
    rng = np.random.default_rng(params.common.seed)
    resamples = draw_resamples(truth["patient_id"], malignant, section.resamples, rng)

    def measure(weights: Floats) -> dict[str, Floats]:
        found = resampled_measures(answers, weights)
        return {name: found[name] for name in SHOWN}

    figures = mean_figures([measure], resamples, section.confidence, MOST, rate_bases(answers))
    figures["brier_by_prevalence"] = {"value": point_measures(answers)["brier_by_prevalence"]}
    figures["mean_probability"] = {"value": float(answers.probabilities.mean())}
    for name, count in count_answers(answers, truth["patient_id"]).items():
        sys.stdout.write(f"{name}: {count:.4g}\n")
    sys.stdout.writelines(f"{name}: {figure_text(figure)}\n" for name, figure in figures.items())


if __name__ == "__main__":
    run_command(main)
