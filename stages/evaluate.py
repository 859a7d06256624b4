"""Answer for the test split by comparison with the reference lesions, once, and measure the answers.

Reads: data/models/, data/shards/train/, data/splits.csv, data/pairs/test.csv
Writes: data/evaluation/, metrics/evaluate.json, metrics/plots/
"""

from pathlib import Path

import numpy as np

from isic_siamese.bootstrap import draw_resamples
from isic_siamese.checksums import write_checksums
from isic_siamese.classifier import CLASSIFIER_JSON, fit_classifier, write_classifier
from isic_siamese.devices import be_deterministic, pick_device
from isic_siamese.embedding import embed_rows
from isic_siamese.errors import DataError, run_command
from isic_siamese.evaluation import (
    EvaluateParams,
    answer_table,
    count_answers,
    curve_tables,
    evaluate,
    measure_pairs,
    report,
)
from isic_siamese.figures import describe_test_images, write_curves, write_map, write_misses
from isic_siamese.files import forget_temporaries, write_csv, write_json
from isic_siamese.groups import Answered, group_figures, image_groups
from isic_siamese.histograms import write_histograms
from isic_siamese.leaks import check_leaks, shard_thumbnails
from isic_siamese.measures import answer
from isic_siamese.model_files import read_model
from isic_siamese.pairs import read_pairs
from isic_siamese.params import Params
from isic_siamese.references import REFERENCE_FILES, find_nearest, pick_references, write_references
from isic_siamese.shards import read_removed, read_shards
from isic_siamese.splits import SPLITS, read_splits, rows_of, seen_images
from isic_siamese.votes import vote_scores

MODELS = Path("data/models")
SHARDS = Path("data/shards/train")
SPLITS_CSV = Path("data/splits.csv")
PAIRS_CSV = Path("data/pairs/test.csv")
EVALUATION = Path("data/evaluation")
METRICS = Path("metrics/evaluate.json")
PLOTS = Path("metrics/plots")


def main() -> None:
    """Write embeddings, classifier, answers, figures and curves."""
    be_deterministic(pick_device())
    params = Params()
    section = params.section("evaluate", EvaluateParams)
    (index, shards), splits = read_shards(SHARDS), read_splits(SPLITS_CSV)
    rows = {split: rows_of(index, splits, split) for split in SPLITS}
    pairs = read_pairs(PAIRS_CSV, rows["test"])
    encoder, facts = read_model(MODELS)
    if facts.seen != seen_images(index, splits):
        problem = f"trained and chosen on other images than train and val of {SPLITS_CSV}, perhaps on those of test"
        raise DataError(f"{MODELS}: {problem}; run 'dvc repro train'")

    removed = read_removed(SHARDS)["image_name"]
    all_rows = index["row"].to_numpy()
    checked = check_leaks(index, rows, removed, shard_thumbnails(shards, "check for leaks"))
    embeddings = embed_rows(encoder, shards, all_rows, section.orientations, "embed each way up")
    malignant = index["target"].to_numpy() == 1
    train, val, voting = rows["train"], rows["val"], (section.temperature, section.vote_penalty)
    val_scores = vote_scores(embeddings[val], embeddings[train], malignant[train], *voting)
    _, nearest = find_nearest(embeddings[val], embeddings[train], 1)
    classifier = fit_classifier(val_scores, malignant[val], nearest[:, 0], section.neighbours, section.orientations)
    # Calibration and threshold are set: validation images may answer, too.
    references = pick_references(index, embeddings, rows_of(index, splits, "train", "val"), *voting)

    test = index.iloc[rows["test"]]
    answers = answer(classifier, references, embeddings[rows["test"]], malignant[rows["test"]])
    measured = measure_pairs(pairs, embeddings, rows["test"])
    rng = np.random.default_rng(params.common.seed)
    resamples = draw_resamples(test["patient_id"], answers.malignant, section.resamples, rng)
    evaluation = evaluate(answers, measured, resamples, section.confidence, rng)
    one_network = np.zeros((1, len(test)), np.int64)
    answered = Answered(answers.malignant, answers.scores[None], answers.decisions[None], one_network)
    groups = group_figures(answered, image_groups(test), resamples, section.confidence)

    write_references(EVALUATION, embeddings, references)
    write_classifier(EVALUATION, classifier)
    write_checksums(EVALUATION, [*REFERENCE_FILES, CLASSIFIER_JSON], MODELS)
    write_csv(EVALUATION / "test.csv", answer_table(test, answers, references))
    # With the answers and not with the plots, which are in git: it shows photographs that have a licence of their own.
    write_misses(EVALUATION / "misses.png", answers, test, shards, references)
    forget_temporaries(EVALUATION)
    for name, table in curve_tables(answers).items():
        write_csv(PLOTS / f"{name}.csv", table)
    drawn = params.common.release == "demo"
    write_curves(PLOTS, answers, evaluation, drawn)
    panels = {f"Pairs, test split\n{describe_test_images(answers.malignant, drawn)}": measured.distances}
    write_histograms(PLOTS / "distances.png", panels, measured.same, facts.margin)
    write_map(PLOTS / "embeddings.png", embeddings[rows["test"]], answers.malignant, drawn)
    counts = {"test": count_answers(answers, test["patient_id"]), "checked_for_leaks": checked}
    write_json(METRICS, report(evaluation, classifier) | {"counts": counts, "groups": groups})


if __name__ == "__main__":
    run_command(main)
