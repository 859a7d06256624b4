"""A run that is killed while it writes shards goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from isic_siamese.images import decode_image
from isic_siamese.shard_writer import ImageSet, write_shards
from isic_siamese.shards import Shards
from tests.jpeg_zips import NAMES, draw_jpeg, params, write_zip, written

ROOT = Path(__file__).parents[1]


def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    jpegs = [draw_jpeg(number, 1600, 1200) for number in range(len(NAMES))]
    members = {f"train/{name}.jpg": jpeg for name, jpeg in zip(NAMES, jpegs, strict=True)}
    source = write_zip(tmp_path / "images.zip", members)
    code = f"""
from pathlib import Path
from isic_siamese.shard_writer import ImageSet, write_shards
from isic_siamese.shards_params import ShardsParams
params = ShardsParams(image_px=256, fit="stretch", images_per_shard=1, exclude=[])
members = {list(members)!r} * 20
write_shards([ImageSet(Path({str(source)!r}), members, Path({str(tmp_path / "train")!r}))],
    Path({str(tmp_path / "work")!r}), params, workers=2)
"""
    run = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(run, env=environment, stderr=subprocess.DEVNULL) as process:
        while len(list(tmp_path.glob("work/train/[!.]*.npy"))) < 10:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    kept = written(tmp_path / "work/train")
    assert 10 <= len(kept) < 460 and not (tmp_path / "train").exists()
    again = ImageSet(source, list(members) * 20, tmp_path / "train")
    [sizes] = write_shards([again], tmp_path / "work", params(images_per_shard=1, image_px=256))
    assert kept < written(tmp_path / "train")
    assert sizes.to_numpy().tolist() == [[1600, 1200]] * 460
    expected = np.stack([decode_image(jpeg, 256) for jpeg in jpegs])
    np.testing.assert_array_equal(Shards(tmp_path / "train").images(np.arange(460)), np.tile(expected, (20, 1, 1, 1)))
