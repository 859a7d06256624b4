"""What every test shares: one thread a process, because small tensors gain nothing from more."""

import torch

torch.set_num_threads(1)
