"""Decode every JPEG of the release once, straight out of the zips, into memory-mapped shards.

Reads: data/raw/
Writes: data/shards/train/, data/shards/test/, metrics/shards.json
"""

from pathlib import Path

import pandas as pd

from isic_siamese import release
from isic_siamese.errors import run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.params import Params
from isic_siamese.shards import ShardsParams, write_index, write_shards

RAW = Path("data/raw")
SHARDS = Path("data/shards")
METRICS = Path("metrics/shards.json")


def main() -> None:
    """Write the shards of the training and the test images."""
    params = Params().section("shards", ShardsParams)
    truth = release.read_truth(RAW / release.TRUTH_CSV)
    duplicates = set(release.read_duplicates(RAW / release.DUPLICATES_CSV)["image_name_2"])
    test = release.read_test_metadata(RAW / release.TEST_CSV)
    reason = truth["image_name"].map(
        lambda name: "excluded" if name in params.exclude else "duplicate" if name in duplicates else ""
    )
    removed = pd.DataFrame({"image_name": truth["image_name"], "reason": reason})[reason != ""]
    kept = truth[reason == ""]
    test = test[~test["image"].isin(params.exclude)]
    train_members = [f"{release.TRAIN_FOLDER}{name}.jpg" for name in kept["image_name"]]
    test_members = [f"{release.TEST_FOLDER}{name}.jpg" for name in test["image"]]
    write_shards(RAW / release.TRAIN_ZIP, train_members, SHARDS / "train", params)
    write_shards(RAW / release.TEST_ZIP, test_members, SHARDS / "test", params)
    write_csv(SHARDS / "train/removed.csv", removed)
    write_index(SHARDS / "train", kept)
    write_index(SHARDS / "test", test)
    counts = {name: int((reason == name).sum()) for name in ("duplicate", "excluded")}
    write_json(METRICS, {"train": {"images": len(kept), "removed": counts}, "test": {"images": len(test)}})


if __name__ == "__main__":
    run_command(main)
