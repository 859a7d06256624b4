"""What holds on a GPU only: `pytest --numprocesses=0 -m cuda tests/test_cuda.py`."""

import pytest
import torch

from isic_siamese.image_source import ImageSource
from isic_siamese.lesion_map import lesion_map
from isic_siamese.trainer import Trainer
from isic_siamese.training_data import TrainingData
from tests.toy import make_trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


def prepare(data: TrainingData, resident: bool, frozen_groups: int | str) -> Trainer:
    run = make_trainer(data, frozen_groups=frozen_groups)
    run.images = ImageSource(data.shards, run.device, resident)
    assert run.ahead > 1
    return run


@pytest.mark.parametrize("frozen_groups", [0, "all"])
@pytest.mark.parametrize("resident", [True, False])
def test_a_step_never_makes_the_host_wait_for_the_device(
    data: TrainingData, resident: bool, frozen_groups: int | str
) -> None:
    run = prepare(data, resident, frozen_groups)
    run.ahead = 2
    losses = run.run_steps(0, run.epoch_order(0))
    next(losses), next(losses)  # allocates and caches
    try:
        torch.cuda.set_sync_debug_mode("error")
        next(losses), next(losses)  # prepares both
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_lesion_is_found_where_a_cpu_finds_it() -> None:
    blocks = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = 255 * torch.nn.functional.interpolate(blocks, size=128, mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(lesion_map(images.cuda()).cpu(), lesion_map(images), rtol=0, atol=0.01)


@pytest.mark.parametrize("frozen_groups", [0, "all"])
def test_the_same_seed_gives_the_same_bits_wherever_the_images_lie(
    data: TrainingData, frozen_groups: int | str
) -> None:
    weights = []
    for resident in (True, True, False):
        run = prepare(data, resident, frozen_groups)
        assert run.device.type == "cuda"
        list(run.run_steps(0, run.epoch_order(0)))
        weights.append(run.encoder.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(other[name], weights[0][name]) for name in other)
