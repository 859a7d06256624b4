"""Several processes, on one machine or many, that train one network: what `torchrun` starts.

Each process ("rank") embeds its share of a step's views; all of them then have all embeddings and the same loss. So a
step is the step that one process would have taken, up to rounding, and a batch means the global batch.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm  # of one dimension or two

from isic_siamese.errors import TrainingError


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that `torchrun` started, while the block runs; where it started none, do nothing.

    Raises:
        TrainingError: something else started it, or the machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if not {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise TrainingError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but torchrun did not start this process; start it with "
            "torchrun (docs/scaling.md), or unset WORLD_SIZE"
        )
    if torch.cuda.is_available():
        number, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= n_gpus:
            raise TrainingError(
                f"torchrun started process {number + 1} on a machine with {n_gpus} GPUs; lower --nproc-per-node"
            )
        torch.cuda.set_device(number)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    yield
    # Not where one process fails: the others may wait for it, and NCCL then waits for them. torchrun ends them all.
    distributed.destroy_process_group()


def n_ranks() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; number 0 is the one that writes."""
    return distributed.get_rank() if n_ranks() > 1 else 0


def share(n: int) -> slice:
    """Return the part of `n` things that is for this process: all of them where it is alone."""
    return slice(n * rank() // n_ranks(), n * (rank() + 1) // n_ranks())


def gather(part: Tensor, n: int) -> Tensor:
    """Return the rows of all processes `(n, ...)`, of which `part`, this process's share, keeps its gradient.

    Every process computes the same loss from the same rows and sends its gradient back through its own rows alone. Each
    path from a weight to the loss is then followed in exactly one process, and the sum of the processes' gradients, not
    their mean, is that of the loss.
    """
    if n_ranks() == 1:
        return part
    own = share(n)
    whole = part.new_zeros(n, *part.shape[1:])
    whole[own] = part.detach()
    distributed.all_reduce(whole)  # one number and zeros: exact
    return torch.cat([whole[: own.start], part, whole[own.stop :]])


def sum_in_place(values: Tensor) -> None:
    """Add to `values` what the other processes hold in its place."""
    if n_ranks() > 1:
        distributed.all_reduce(values)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum of those of all processes, in one message."""
    if n_ranks() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    totals = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view_as(gradient))


def from_first(value: Any) -> Any:
    """Return what process 0 gave."""
    box = [value]
    if n_ranks() > 1:
        distributed.broadcast_object_list(box)
    return box[0]


def share_batch_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """Return `network` with batch normalisation over the views of all processes, as one process would have it.

    torch has that for CUDA alone; on a CPU each layer gets a forward pass of ours. Names of weights stay as they are.
    """
    if n_ranks() == 1:
        return network
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]
    return network


class _Sum(torch.autograd.Function):
    """The sum over the processes; each of them depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        (total,) = (gradient.clone() for gradient in gradients)
        distributed.all_reduce(total)
        return total


def _normalise(norm: _BatchNorm, images: Tensor) -> Tensor:
    """`norm.forward` with the mean and variance of all processes; timm's layers have an activation in them as well.

    Channels are the second dimension of `images`, of which there are two or more.
    """
    if not norm.training:
        usual: Tensor = type(norm).forward(norm, images)
        return usual
    dtype, others = images.dtype, [0, *range(2, images.ndim)]
    by_channel = [1, -1] + [1] * (images.ndim - 2)
    images = images.to(torch.promote_types(dtype, torch.float32))  # a sum over bfloat16 would lose its last digits
    sums = torch.cat([images.sum(others), images.new_tensor([images.numel() / images.shape[1]])])
    totals = _Sum.apply(sums)
    n = totals[-1]
    mean = totals[:-1] / n
    centred = images - mean.view(by_channel)
    variance = _Sum.apply(centred.square().sum(others)) / n
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * n / (n - 1), norm.momentum)
        norm.num_batches_tracked.add_(1)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    normalised: Tensor = (centred * scale.view(by_channel) + norm.bias.view(by_channel)).to(dtype)
    for name in ("drop", "act"):
        normalised = getattr(norm, name, nn.Identity())(normalised)
    return normalised
