"""What every test shares: one thread a process, because small tensors gain nothing from more; and one run pipeline."""

import torch

from tests.checkout import checkout

__all__ = ["checkout"]

torch.set_num_threads(1)
