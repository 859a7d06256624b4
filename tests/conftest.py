"""What every test shares: one thread a process, because small tensors gain nothing from more; and one run pipeline."""

import pytest
import torch

from tests.checkout import checkout

__all__ = ["checkout"]

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Let one of the two processes have all tests of the run pipeline, so that it runs once."""
    for item in items:
        if "checkout" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("checkout"))
