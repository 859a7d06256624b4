import re

import pytest
import torch
from torch import Tensor

from isic_siamese import ranks
from isic_siamese.errors import TrainingError
from isic_siamese.training_data import TrainingData
from tests.joint_training import train_jointly
from tests.processes import run_ranks
from tests.toy import make_trainer

pytestmark = pytest.mark.xdist_group("ranks")  # in one process, so that the two ranks run once


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Return what one process found, and each of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    run_ranks(["-m", "tests.joint_training", str(two)], [two] * 2)
    return [train_jointly(one), *(torch.load(two / f"found-{rank}.pt") for rank in range(2))]


def test_two_processes_have_the_loss_and_the_gradients_of_one(found: list[dict[str, Tensor]]) -> None:
    one, *two = found
    names = [name for name in one if name.startswith(("contrastive", "cross_entropy", "rows"))]
    assert len(names) > 150
    for other in two:
        for name in names:
            torch.testing.assert_close(other[name], one[name], rtol=1e-7, atol=1e-9, msg=name)


def test_two_processes_end_within_rounding_of_one(found: list[dict[str, Tensor]]) -> None:
    """After twenty steps; AdamW divides by the size of a gradient, and so makes much of the rounding of small ones."""
    one, *two = found
    for other in two:
        for name in ("losses", "frozen losses"):
            torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=0)
        torch.testing.assert_close(other["bfloat16 losses"], one["bfloat16 losses"], rtol=1e-2, atol=0)
        for name in [name for name in one if name.startswith(("embeddings", "buffer"))]:
            torch.testing.assert_close(other[name], one[name], rtol=5e-3, atol=5e-3, msg=name)


def test_two_processes_hold_the_same_bits(found: list[dict[str, Tensor]]) -> None:
    _, first, second = found
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_image_goes_through_a_frozen_backbone_in_one_process_alone(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = []
    for rank, n_ranks in ((0, 1), (0, 2), (1, 2)):
        monkeypatch.setattr(ranks, "share", lambda n, i=rank, of=n_ranks: slice(n * i // of, n * (i + 1) // of))
        features = make_trainer(data, frozen_groups="all").features
        assert features is not None
        pooled.append(features)
    whole, one, other = pooled
    n_pooled = [int(part.any(dim=1).sum()) for part in pooled]
    assert n_pooled == [128, 64, 64]
    torch.testing.assert_close(one + other, whole)


@pytest.mark.parametrize(
    ("started", "wanted"),
    [
        ({}, "WORLD_SIZE is 4, but torchrun did not start this process; start it with torchrun"),
        (
            {"RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "torchrun started process 4 on a machine with 2 GPUs; lower --nproc-per-node",
        ),
    ],
)
def test_processes_that_cannot_train_together_are_told_why(
    started: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"WORLD_SIZE": "4"} | started).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match=re.escape(wanted)), ranks.joined():
        pass
