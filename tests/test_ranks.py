import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.xdist_group("ranks")  # in one process, so that the two ranks run once

ROOT = Path(__file__).parents[1]
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
            for part in (trainer.encoder, trainer.to_logit):
                found |= {f"{loss} {name}": p.grad for name, p in part.named_parameters() if p.grad is not None}
        trained = train(make_trainer(data, epochs=2, learning_rate=1e-3), folder / "checkpoints", lambda _: None)
        found["losses"] = torch.tensor(trained.history["loss"])
        frozen = make_trainer(data, epochs=2, frozen_groups="all")  # a process then pools a share of the copies
        frozen.ahead = 3
        found["frozen losses"] = torch.tensor(train(frozen, folder / "checkpoints", lambda _: None).history["loss"])
        halved = make_trainer(data, epochs=1, precision="bfloat16")
        found["bfloat16 losses"] = torch.tensor(train(halved, folder / "checkpoints", lambda _: None).history["loss"])
        found["embeddings"] = torch.from_numpy(trained.best)
        found |= {f"buffer {name}": buffer for name, buffer in trained.encoder.named_buffers()}
        torch.save(found, folder / f"found-{ranks.rank()}.pt")
"""


def run_processes(folder: Path, n: int) -> list[dict[str, Tensor]]:
    """Run `SCRIPT` in `n` processes, with the variables that torchrun sets, and return what each of them found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder.mkdir()
    common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(n):
        own = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": "src:."}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * n, errors
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(n)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_processes(folder / "one", 1) + run_processes(folder / "two", 2)


def test_two_processes_have_the_loss_and_the_gradients_of_one(found: list[dict[str, Tensor]]) -> None:
    one, *two = found
    names = [name for name in one if name.startswith(("contrastive", "cross_entropy"))]
    assert len(names) > 50
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
