"""Batch normalisation that no longer learns, as part of the convolution before it: the same function in less time."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm  # what the synchronised one is, too
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module, run: Callable[[], Tensor]) -> None:
    """Fold each frozen batch normalisation of `network` into the frozen convolution that feeds it and nothing else.

    Args:
        network: in evaluation mode.
        run: sends an image that asks for its gradient through `network`, and returns what comes out. Its graph says
            what feeds what; the names of layers and their order only suggest it.
    """
    convolutions: dict[Node | None, nn.Conv2d] = {}
    norms: list[tuple[Node | None, _BatchNorm]] = []

    def note_convolution(module: nn.Conv2d, _: object, output: Tensor) -> None:
        convolutions[output.grad_fn] = module

    def note_norm(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        norms.append((inputs[0].grad_fn, module))

    hooks = [m.register_forward_hook(note_convolution) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_norm) for m in network.modules() if isinstance(m, _BatchNorm)]
    with torch.enable_grad():
        uses = _count_uses(run().grad_fn)
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in network.named_modules()}
    for node, norm in norms:
        convolution = convolutions.get(node)
        if convolution is None or uses[node] > 1 or _learns(convolution) or _learns(norm):
            continue
        network.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        _remove(network, names[norm], norm)


def fold_as_in(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Leave `network` the layers that folding left the network of `state`; their weights are yet to be loaded."""
    for name, module in list(network.named_modules()):
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" not in state:
            _remove(network, name, module)
        if isinstance(module, nn.Conv2d) and module.bias is None and f"{name}.bias" in state:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))


def _remove(network: nn.Module, name: str, norm: _BatchNorm) -> None:
    network.set_submodule(name, getattr(norm, "act", nn.Identity()))  # timm's has an activation in it


def _learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _count_uses(last: Node | None) -> Counter[Node | None]:
    """Return how many operations take what each operation gives."""
    uses: Counter[Node | None] = Counter()
    todo = [last]
    while todo:
        node = todo.pop()
        for source, _ in node.next_functions if node is not None else ():
            if not uses[source]:
                todo.append(source)
            uses[source] += 1
    return uses
