"""Write what documents say of the metrics, so that it cannot drift: `make card`.

That is `docs/model-card.md`, and of `README.md` the line on the demo.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from isic_siamese.bootstrap import figure_text
from isic_siamese.errors import DataError, run_command
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.files import replacing
from isic_siamese.measures import DERMATOLOGISTS, study_name
from isic_siamese.params import Params

METRICS = Path("metrics")
CARD, README = Path("docs/model-card.md"), Path("README.md")
SOURCES = ("split", "evaluate", "controls")

Numbers = Mapping[str, Any]

FIGURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "partial_auc": "Partial AUC at sensitivity >= 80 % (ISIC 2024, 0 to 0.2)",
    "balanced_accuracy": "Balanced accuracy: expected accuracy on as many benign images as melanomas",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "ppv_isic2020": "... were 1.76 % of the lesions melanoma, as in ISIC 2020",
    "npv": "Negative predictive value",
    "f1": "F1",
    "brier": "Brier score",
    "brier_by_prevalence": "... of the share of melanomas as the probability of each image",
    "brier_uncalibrated": "Brier score before calibration",
    "calibration_slope": "Calibration slope (1; below: too extreme)",
    "calibration_intercept": "Calibration in the large (0; above: too low)",
    "calibration_error": "Calibration error",
    "calibration_error_by_chance": "... expected by chance from a calibrated model on this sample",
    "calibration_error_uncalibrated": "Calibration error before calibration",
    "pair_verification_auc": "AUC, same-class against different-class pairs",
    "recall_at_1": "Recall@1, mean of both classes",
    "recall_at_5": "Recall@5, mean of both classes",
}
CONTROLS = {
    "mean_colour": "Mean colour only, logistic regression",
    "metadata": "Age, sex, body site only, logistic regression",
    "untrained_encoder": "EfficientNet-Lite0 with random weights, reference votes",
    "imagenet_features": "EfficientNet-Lite0 with ImageNet weights, frozen, logistic regression",
    "imagenet_votes": "EfficientNet-Lite0 with ImageNet weights, frozen, reference votes",
    "shuffled_labels": "Shuffled labels, mean and spread of 20 (expect 0.5)",
}

USE = """\
## Intended use

Research and teaching: metric learning on dermoscopic images, and reproducible pipelines. The model scores one
dermoscopic image of one skin lesion and shows the most similar known lesions. **It is not a diagnostic device.** It
must not decide, alone or as a second opinion, whether a lesion is examined, excised or left. Smartphone photographs,
other skin diseases, images of several lesions, and populations unlike the training data are out of scope.
"""

LIMITS = """\
## Limits

- Releases record no skin tone, and the patients of ISIC 2020 are mostly light-skinned: performance on dark skin is
  unknown. Nor do they record clinic or camera; JPEG size is used as a proxy for the camera.
- In ISIC 2020 most benign labels lack histology; melanoma labels have it. Labels may be wrong.
- Images are downsampled (`shards.image_px`): fine structures that dermatologists use are lost.
- An image further from its nearest reference than all but 1 % of the validation images is called unfamiliar: its answer
  is not to be relied on. After training on real images, that tells what is no dermoscopic image of a lesion, but not
  another camera or clinic.
- No patient, lesion or near-identical image is in two splits, and no model is tested with other splits than those that
  it was trained and chosen with: such a run fails. Crops of more than about 1 % of a side are not recognised.
- Intervals reflect sampling of patients in one test split, for one training run. They cover neither training variance
  nor the shift to another clinic, so figures for a new population may lie outside them.
- The defaults were chosen on 854 images of ISIC 2020, 439 of its 584 melanomas among them. Figures on ISIC 2020, also
  those of test images, are optimistic by an unknown amount.
- Probabilities are calibrated at the prevalence of melanoma in the validation split. At another prevalence they are
  off, while the decisions, if images are otherwise alike, keep their sensitivity and specificity: multiply the odds of
  the probability by the prevalence odds there over those of validation, and likewise the odds of the threshold.
"""


def compose_card(release: str, confidence: float, numbers: Numbers) -> str:
    """Return the card as Markdown.

    Args:
        release: `release` of `params.yaml`.
        confidence: of every interval.
        numbers: the content of `metrics/<name>.json` by each name of `SOURCES`.
    """
    figures = _figures(release, confidence, numbers)
    return "\n".join([*_head(release), USE, *_data(numbers["split"]), *figures, LIMITS.rstrip(), ""])


def _head(release: str) -> Iterator[str]:
    yield "# Model card"
    yield ""
    yield "Written by `make card` from `metrics/`. Do not edit it: change the text in `src/isic_siamese/model_card.py`."
    yield ""
    yield "- **Model**: a Siamese network: one encoder for both images of a pair, contrastive loss over balanced pairs"
    yield "  plus, by default, a cross-entropy of each image's class, unit-length embeddings. An image is compared with"
    yield "  those of the training and validation images. Calibration and threshold are set on the validation images,"
    yield "  with only training images as references. Encoder, loss and every other number: `params.yaml`."
    yield f"- **Release**: `{release}`" + (
        ", drawn images: these figures say nothing of skin" if release == "demo" else ""
    )
    yield "- **Licence**: code MIT. Images have their own: those of ISIC 2020 are CC-BY-NC 4.0 (doi"
    yield "  10.34970/2020-ds01), not for commercial use."
    yield ""


def _data(split: Numbers) -> Iterator[str]:
    yield "## Data"
    yield ""
    yield "Split by patient, official duplicates removed."
    yield ""
    rows = []
    for name, counts in split.items():
        share = f"{counts['melanomas']:,} ({counts['melanoma_fraction']:.1%})"
        rows.append([name, f"{counts['patients']:,}", f"{counts['images']:,}", share])
    yield from _table(["split", "patients", "images", "melanomas"], rows)


def _figures(release: str, confidence: float, numbers: Numbers) -> Iterator[str]:
    evaluation = numbers["evaluate"]
    yield "## Figures"
    yield ""
    yield f"Test split, read once in this run; in brackets the {100 * confidence:g} % interval: Student's t with the"
    yield "standard error of a patient-level bootstrap. Where all resamples agree, a rate has a Clopper-Pearson"
    yield "interval over patients, and the mean of two rates the mean of their limits; other figures have none. Nor"
    yield "has the calibration error, which sampling noise biases upwards. A value at its end, 0 or 1, has percentiles"
    yield "of the resamples where these differ: too narrow where patients are few. Accuracy, predictive values, average"
    yield "precision, F1, Brier score and calibration in the large, and their intervals, hold for the share of patients"
    yield "with a melanoma that this split has."
    yield ""
    yield f"**Goal of 80 % accuracy**: {evaluation['goal']}."
    yield ""
    yield from _table(["figure", "value"], [[title, _cell(evaluation.get(name))] for name, title in FIGURES.items()])
    if release != "demo":  # nobody has seen drawn lesions
        yield from _dermatologists(evaluation["at_dermatologists"])
    yield "Controls on the same splits, ROC AUC:"
    yield ""
    controls = numbers["controls"]
    areas = {"**This model**": evaluation["roc_auc"]}
    areas |= {title: controls[name]["roc_auc"] for name, title in CONTROLS.items()}
    yield from _table(["control", "value"], [[title, _cell(area)] for title, area in areas.items()])
    yield f"Always answering benign has an accuracy of {controls['all_benign']['accuracy']['value']:.3f}."
    yield ""
    yield from _groups(evaluation["groups"])


def _dermatologists(figures: Numbers) -> Iterator[str]:
    yield "Beside dermatologists (sensitivity / specificity), on the lesions of their own studies: in Haenssle 2020"
    yield "skin cancers of any kind; Phillips 2019 is a meta-analysis of studies with and without dermoscopy. Ours are"
    yield "read off the curve of the test split:"
    yield ""
    rows = []
    for study, rates in DERMATOLOGISTS.items():
        ours, theirs = figures[study], " / ".join(f"{100 * rate:.1f}" for rate in rates)
        rows.append([f"{study_name(study)} ({theirs} %)", _cell(ours["specificity"]), _cell(ours["sensitivity"])])
    yield from _table(["study", "our specificity at their sensitivity", "our sensitivity at their specificity"], rows)


def _groups(groups: Numbers) -> Iterator[str]:
    yield "By group; no share of fewer than 10 images:"
    yield ""
    rows = []
    for kind, members in groups.items():
        for name, figures in members.items():
            cells = [_cell(figures.get(figure)) for figure in ("roc_auc", "sensitivity", "specificity")]
            rows.append([f"{kind}: {name}".replace("_", " "), figures["images"], figures["melanomas"], *cells])
    yield from _table(["group", "images", "melanomas", "ROC AUC", "sensitivity", "specificity"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    yield from (lines[0], "|" + "---|" * len(head), *lines[1:], "")


def _cell(figure: Numbers | None) -> str:
    return "-" if figure is None else figure_text(figure)


def update_readme(readme: str, numbers: Numbers) -> str:
    """Return the README with its line on the demo made anew; `numbers` as in `compose_card`.

    Raises:
        DataError: it has no such line.
    """
    evaluation, start = numbers["evaluate"], "| demo (drawn) | "
    counts = evaluation["counts"]["test"]
    figures = [evaluation["roc_auc"], evaluation["balanced_accuracy"]]
    cells = [f"{counts['images']} ({counts['melanomas']})", counts["patients"], *map(figure_text, figures)]
    line = f"{start}{' | '.join(map(str, cells))} |"
    readme, n = re.subn(rf"^{re.escape(start)}.*$", line, readme, flags=re.MULTILINE)
    if n != 1:
        raise DataError(f"{README}: wanted one line that begins with {start!r}, got {n}; put it back")
    return readme


def documents() -> dict[Path, str]:
    """Return what `docs/model-card.md` should hold, and `README.md`, where the release is the demo.

    Raises:
        DataError: a metrics file is absent or older than this code.
    """
    params = Params()
    release, confidence = params.common.release, params.section("evaluate", EvaluateParams).confidence
    try:
        numbers = {name: json.loads((METRICS / f"{name}.json").read_text(encoding="utf-8")) for name in SOURCES}
        made = {CARD: compose_card(release, confidence, numbers)}
        if release == "demo":
            made[README] = update_readme(README.read_text(encoding="utf-8"), numbers)
        return made
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run 'dvc repro'") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{METRICS}: not the metrics of this version: {error}; run 'dvc repro'") from None


def main() -> None:
    """Write both."""
    for path, text in documents().items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run_command(main)
