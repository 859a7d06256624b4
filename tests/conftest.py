"""What every test shares: one thread a process, because small tensors gain nothing from more; and one run pipeline."""

import pytest
import torch

from tests.checkout import checkout

__all__ = ["checkout"]

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups, which take longest, so that both processes end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
