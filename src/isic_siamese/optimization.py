"""How the weights move: AdamW, at a learning rate that rises and then falls to zero."""

import math
from collections.abc import Iterable

from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from isic_siamese.training_data import TrainParams

BACKBONE_RATE = 0.1  # learning rate of pretrained layers, as a part of that of the new ones


def learning_rate_factor(step: int, n_warmup: int, n_steps: int) -> float:
    """Return the share of the peak learning rate at `step`: a line up to it, then half a cosine down to zero.

    >>> [round(learning_rate_factor(step, 2, 6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def build_optimizer(
    backbone: nn.Module, new: Iterable[nn.Module], params: TrainParams, steps_per_epoch: int
) -> tuple[AdamW, LambdaLR]:
    """Return the optimizer and its schedule, to be stepped once a step.

    Args:
        backbone: learns at a tenth of the rate where it is pretrained.
        new: layers that are not.
        params: of the run.
        steps_per_epoch: of the optimizer.
    """
    groups = param_groups_weight_decay(nn.ModuleList(new), params.weight_decay)  # none on biases and norms
    rate = params.learning_rate * (1 if params.weights == "none" else BACKBONE_RATE)
    for group in param_groups_weight_decay(backbone, params.weight_decay):
        groups.append(group | {"lr": rate})
    optimizer = AdamW(groups, lr=params.learning_rate, fused=True)
    n_warmup, n_steps = round(params.warmup_epochs * steps_per_epoch), params.epochs * steps_per_epoch
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate_factor(step, n_warmup, n_steps))
