"""Answer for the official test images, which have no public labels.

Reads: data/models/, data/evaluation/, data/shards/test/
Writes: data/predictions/submission.csv, metrics/predict.json
"""

from pathlib import Path

import pandas as pd

from isic_siamese.devices import be_deterministic, pick_device
from isic_siamese.embedding import embed, embed_rows
from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.predictor import read_predictor
from isic_siamese.shards import read_index, read_shards

SHARDS = Path("data/shards/test")
SUBMISSION = Path("data/predictions/submission.csv")
METRICS = Path("metrics/predict.json")


def main() -> None:
    """Write the probability of melanoma for each test image."""
    be_deterministic(pick_device())
    predictor, index = read_predictor(), read_index(SHARDS)
    encoder, classifier = predictor.encoder, predictor.classifier
    if len(index):
        index, shards = read_shards(SHARDS)
        embeddings = embed_rows(encoder, shards, index["row"].to_numpy(), classifier.orientations, "embed each way up")
    else:  # a release may come without test images, and then there are no shards
        embeddings = embed(encoder, [])
    probabilities = predictor.probabilities(embeddings)

    write_csv(SUBMISSION, pd.DataFrame({"image_name": index["image"], "target": probabilities}))
    counts = {"flagged": int(classifier.decide(probabilities).sum())}
    counts["unfamiliar"] = int(classifier.is_unfamiliar(predictor.references.nearest(embeddings, 1)[1]).sum())
    fractions = {f"{name}_fraction": n / len(index) for name, n in counts.items()} if len(index) else {}
    write_json(METRICS, {"images": len(index), **counts, **fractions})


if __name__ == "__main__":
    run_command(main)
