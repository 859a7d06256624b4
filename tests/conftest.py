"""What every test shares: one thread a process, because small tensors gain nothing from more; and one run pipeline.

The tests run on the CPU, to its digits, whatever the machine has. Those of `tests/test_cuda.py` need a GPU, and are run
by `pytest --numprocesses=0 -m cuda tests/test_cuda.py`.
"""

import os

import pytest
import torch

from tests.answered_project import here, project
from tests.checkout import checkout, wider
from tests.reviewed_project import branch, reviewed_project
from tests.toy import data

__all__ = ["branch", "checkout", "data", "here", "project", "reviewed_project", "wider"]

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from the tests and from the processes that they start."""
    if config.getoption("markexpr") != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
