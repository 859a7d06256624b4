"""What a step asks of a GPU, checked without one: fake tensors have a device and a shape, but no values.

What would make the host wait for the device is refused: to bring together what lies on both, and to look at a value.
Neither the backward pass nor autocast can be had so: `tests/test_cuda.py` has them, on a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isic_siamese.image_source import ImageSource
from isic_siamese.trainer import Trainer
from isic_siamese.training_data import TrainParams
from tests.toy import draw_data, forget_constants, make_trainer

CUDA = torch.device("cuda:0")
FAKE = FakeTensorMode(allow_non_fake_inputs=True)  # one, because some tensors are kept per device
LOSSES = get_args(TrainParams.model_fields["loss"].annotation)


class NeverWait(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations on tensors of two devices, and copies from the GPU to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, got = (
            {leaf.device for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)} for tree in (args, result)
        )
        if CUDA in given and len(given | got) > 1:
            raise AssertionError(f"{func}: from {given} to {got}")
        return result


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No memory can be pinned, and no fake tensor is kept for other tests."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    yield
    forget_constants()


def move(run: Trainer) -> None:
    """Move what a trainer on a CPU holds to the GPU that is not there."""
    for module in [*run.encoder.modules(), *run.objective.modules()]:
        for tensors in (module._parameters, module._buffers):
            moved: Any = {name: tensor.detach().to(CUDA) for name, tensor in tensors.items() if tensor is not None}
            tensors.update(moved)
    run.device = CUDA
    if run.features is not None:
        run.features = run.features.to(CUDA)
    run.images = ImageSource(run.data.shards, CUDA, resident=True)
    run.steps = [
        replace(step, **{name: getattr(step, name).to(CUDA) for name in ("malignant", "same", "weights")})
        for step in run.steps
    ]


@pytest.mark.parametrize("frozen_groups", [0, "all"])
@pytest.mark.parametrize("resampled", [False, True])
def test_no_step_mixes_devices_or_makes_the_host_wait(
    tmp_path: Path, frozen_groups: int | str, resampled: bool
) -> None:
    run = make_trainer(draw_data(tmp_path), frozen_groups=frozen_groups)
    if resampled:
        run.recipe = run.recipe.model_copy(update={"apply_to": "all", "rotate": "any", "scale": 0.1})
    run.encoder.train()
    with FAKE, torch.no_grad():
        move(run)
        run.embed_views(*run.prepare(0, [0]))  # fills what is kept per device
        with NeverWait():  # type: ignore[no-untyped-call]
            views, _ = run.prepare(0, [0, 1])
            embeddings = run.embed_views(views)
            for loss in LOSSES:
                run.objective._loss = loss
                assert run.objective(embeddings, run.steps[0]).device == CUDA


@pytest.mark.parametrize("wait", [Tensor.item, Tensor.cpu, Tensor.nonzero, lambda cell: cell[torch.zeros(1).long()]])
def test_what_makes_the_host_wait_is_refused(wait: Callable[[Tensor], object]) -> None:
    refusals = AssertionError, DataDependentOutputException, DynamicOutputShapeException
    with FAKE, NeverWait(), pytest.raises(refusals):  # type: ignore[no-untyped-call]
        wait(torch.empty(1, device=CUDA))
