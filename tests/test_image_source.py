from pathlib import Path

import numpy as np
import pytest
import torch

from isic_siamese.image_source import CHUNK, ImageSource, fits
from isic_siamese.shards import Shards

CPU = torch.device("cpu")


@pytest.mark.parametrize("resident", [True, False])
def test_images_are_the_same_whether_they_lie_on_the_device_or_in_the_shards(resident: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (CHUNK + 30, 8, 8, 3), dtype=np.uint8)
    for number, part in enumerate(np.array_split(images, 3)):
        np.save(tmp_path / f"shard-{number:05}.npy", part)
    rows = rng.integers(0, len(images), 50)
    source = ImageSource(Shards(tmp_path), CPU, resident)
    assert np.array_equal(source.take(torch.from_numpy(rows)).numpy(), images[rows])


def test_on_a_cpu_the_images_are_never_copied_into_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "shard-00000.npy", np.zeros((4, 8, 8, 3), np.uint8))
    assert not fits(Shards(tmp_path), CPU)


def test_on_a_gpu_they_are_where_they_take_half_of_its_free_memory_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "shard-00000.npy", np.zeros((4, 8, 8, 3), np.uint8))  # 768 bytes
    for free, fit in ((1535, False), (1536, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 1 << 40))
        assert fits(Shards(tmp_path), torch.device("cuda")) == fit
