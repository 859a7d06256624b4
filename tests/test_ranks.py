import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isic_siamese import ranks
from isic_siamese.errors import TrainingError
from isic_siamese.training_data import TrainingData
from tests.processes import run_ranks
from tests.toy import make_trainer

pytestmark = pytest.mark.xdist_group("ranks")  # in one process, so that the two ranks run once

SCRIPT = """
    import sys
    from pathlib import Path
    import torch
    from isic_siamese import ranks
    from isic_siamese.training import train
    from tests.toy import draw_data, make_trainer
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with ranks.joined():
        found = {}
        images = folder / f"images-{ranks.rank()}"
        images.mkdir()
        data = draw_data(images)
        for loss in ("contrastive", "cross_entropy"):
            trainer = make_trainer(data, loss=loss, cross_entropy_weight=0.5)
            trainer.encoder.double().train()  # or what one sees is the rounding of batch normalisation
            found[f"{loss} loss"] = next(trainer.run_steps(0, [0]))
            for part in (trainer.encoder, trainer.objective):
                found |= {f"{loss} {name}": p.grad for name, p in part.named_parameters() if p.grad is not None}
        # LeViT normalises rows of features, not maps.
        rows = make_trainer(data, encoder="levit_128s", stages=2)
        rows.encoder.double().train()
        found["rows loss"] = next(rows.run_steps(0, [0]))
        found |= {f"rows {name}": p.grad for name, p in rows.encoder.named_parameters() if p.grad is not None}
        found |= {f"rows {name}": buffer for name, buffer in rows.encoder.named_buffers()}
        trained = train(make_trainer(data, epochs=2, learning_rate=1e-3), folder / "checkpoints", lambda _: None)
        found["losses"] = torch.tensor(trained.history["loss"])
        frozen = make_trainer(data, epochs=2, frozen_groups="all")  # a process then pools a share of images and copies
        frozen.ahead = 3
        found["frozen losses"] = torch.tensor(train(frozen, folder / "checkpoints", lambda _: None).history["loss"])
        halved = make_trainer(data, epochs=1, precision="bfloat16")
        found["bfloat16 losses"] = torch.tensor(train(halved, folder / "checkpoints", lambda _: None).history["loss"])
        found["embeddings"] = torch.from_numpy(trained.best)
        found |= {f"buffer {name}": buffer for name, buffer in trained.encoder.named_buffers()}
        torch.save(found, folder / f"found-{ranks.rank()}.pt")
"""


def run_processes(folder: Path, n: int) -> list[dict[str, Tensor]]:
    """Run `SCRIPT` in `n` processes, and return what each of them found."""
    folder.mkdir()
    run_ranks(["-c", textwrap.dedent(SCRIPT), str(folder)], [folder] * n)
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(n)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_processes(folder / "one", 1) + run_processes(folder / "two", 2)


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
