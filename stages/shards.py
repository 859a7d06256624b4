"""Decode every JPEG of the release once, straight out of the zips, into uint8 shards.

Reads: data/raw/
Writes: data/shards/train/, data/shards/test/, metrics/shards.json
"""

from pathlib import Path

from isic_siamese import release
from isic_siamese.errors import ParamsError, run_command
from isic_siamese.files import write_csv, write_json
from isic_siamese.params import Params
from isic_siamese.shard_writer import ImageSet, check_excluded, drop_images, write_index, write_shards
from isic_siamese.shards_params import ShardsParams

RAW = Path("data/raw")
TRAIN = Path("data/shards/train")
TEST = Path("data/shards/test")
WORK = Path("data/checkpoints/shards")
METRICS = Path("metrics/shards.json")


def main() -> None:
    """Write the shards and the index of the training and of the test images."""
    params = Params().section("shards", ShardsParams)
    truth = release.read_truth(RAW / release.TRUTH_CSV)
    duplicates = release.read_duplicates(RAW / release.DUPLICATES_CSV)
    test = release.read_test_metadata(RAW / release.TEST_CSV)
    check_excluded(params.exclude, [*truth["image_name"], *test["image"]])

    removed = drop_images(truth, duplicates, params.exclude)
    kept = truth[~truth["image_name"].isin(removed["image_name"])]
    if kept.empty:
        raise ParamsError(
            f"shards.exclude: names all {len(truth):,} training images; wanted a list that leaves some in"
        )
    kept_test = test[~test["image"].isin(params.exclude)]
    members = [f"{release.TRAIN_FOLDER}{name}.jpg" for name in kept["image_name"]]
    test_members = [f"{release.TEST_FOLDER}{name}.jpg" for name in kept_test["image"]]
    train_set = ImageSet(RAW / release.TRAIN_ZIP, members, TRAIN)
    test_set = ImageSet(RAW / release.TEST_ZIP, test_members, TEST)
    sizes, test_sizes = write_shards([train_set, test_set], WORK, params)

    write_csv(TRAIN / "removed.csv", removed)
    write_index(TRAIN, kept, sizes)
    write_index(TEST, kept_test, test_sizes)
    counts = {reason: int((removed["reason"] == reason).sum()) for reason in ("duplicate", "excluded")}
    n_test = {"images": len(kept_test), "removed": {"excluded": len(test) - len(kept_test)}}
    write_json(METRICS, {"train": {"images": len(kept), "removed": counts}, "test": n_test})


if __name__ == "__main__":
    run_command(main)
