"""Constant tensors, made once for each device and kept."""

from collections.abc import Callable
from functools import cache, wraps
from typing import TypeVarTuple

import torch
from torch import Tensor

Ts = TypeVarTuple("Ts")


def constant(make: Callable[[*Ts], Tensor]) -> Callable[[*Ts], Tensor]:
    """Have `make` called once for its arguments, and its tensor kept: for training too, whoever asks first.

    A graph that is exported makes its own, because tensors made meanwhile hold no values.
    """
    keep = cache(torch.inference_mode(False)(make))

    @wraps(make)
    def get(*args: *Ts) -> Tensor:
        return make(*args) if torch.compiler.is_compiling() else keep(*args)

    get.cache_clear = keep.cache_clear  # type: ignore[attr-defined]
    return get
