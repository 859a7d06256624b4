import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isic_siamese.losses import contrastive_loss, pair_distances


def on_the_circle(degrees: list[float]) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_distances_of_points_at_known_angles() -> None:
    left, right = on_the_circle([0, 0, 0, 0]), on_the_circle([0, 60, 90, 180])
    expected = torch.tensor(
        [1e-6, 1.0, math.sqrt(2), 2.0], dtype=torch.float64
    )  # a floor of 1e-6 keeps the slope finite
    torch.testing.assert_close(pair_distances(left, right), expected)


def test_loss_of_pairs_worked_out_by_hand() -> None:
    distances = torch.tensor([1.0, 0.5, 0.5, 1.5])
    same = torch.tensor([True, True, False, False])
    # 1/2 (1 + 0.25 + (1 - 0.5)^2 + 0) / 4
    assert contrastive_loss(distances, same, margin=1.0).item() == pytest.approx(0.1875)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=30),
    margin=st.floats(0.1, 2),
)
def test_loss_agrees_with_a_slow_loop(pairs: list[tuple[float, bool]], margin: float) -> None:
    slow = sum(d * d / 2 if same else max(0.0, margin - d) ** 2 / 2 for d, same in pairs) / len(pairs)
    distances = torch.tensor([d for d, _ in pairs], dtype=torch.float64)
    fast = contrastive_loss(distances, torch.tensor([same for _, same in pairs]), margin)
    assert fast.item() == pytest.approx(slow, abs=1e-12)


def test_a_step_down_the_gradient_pulls_same_pairs_together_and_pushes_different_ones_apart() -> None:
    left = on_the_circle([0.0, 0.0]).requires_grad_()
    right = on_the_circle([30.0, 30.0])
    same = torch.tensor([True, False])
    before = pair_distances(left, right)
    contrastive_loss(before, same, margin=1.0).backward()  # type: ignore[no-untyped-call]
    assert left.grad is not None
    after = pair_distances(left.detach() - 0.01 * left.grad, right)
    assert after[0] < before[0] and after[1] > before[1]


def test_equal_embeddings_have_a_finite_gradient() -> None:
    left = on_the_circle([0.0, 0.0]).requires_grad_()
    loss = contrastive_loss(pair_distances(left, left.detach().clone()), torch.tensor([True, False]), margin=1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert left.grad is not None and left.grad.isfinite().all()
