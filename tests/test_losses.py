import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as oracle
from pytorch_metric_learning.reducers import DoNothingReducer

from isic_siamese.losses import (
    contrastive_loss,
    cross_entropy_loss,
    pair_distances,
    supervised_contrastive_loss,
    triplet_loss,
)


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


def views(n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    return embeddings, torch.arange(n) % 3 == 0


def test_contrastive_loss_agrees_with_pytorch_metric_learning() -> None:
    """Theirs has no square and a margin a side: max(0, d) for the same and max(0, margin - d) for different pairs."""
    embeddings, malignant = views()
    i, j = torch.triu_indices(12, 12, 1)
    same = malignant[i] == malignant[j]
    distances = pair_distances(embeddings[i], embeddings[j])
    ours = contrastive_loss(distances, same, margin=1.0)
    squared = 0.5 * torch.where(same, distances, (1 - distances).clamp_min(0)) ** 2
    theirs = oracle.ContrastiveLoss(pos_margin=0, neg_margin=1.0, reducer=DoNothingReducer())
    parts = theirs(embeddings, malignant.long())
    assert (0.5 * parts["pos_loss"]["losses"] ** 2).mean().item() == pytest.approx(
        squared[same].mean().item(), rel=1e-5
    )
    negative = 0.5 * parts["neg_loss"]["losses"] ** 2
    assert negative.mean().item() == pytest.approx(squared[~same].mean().item(), rel=1e-5)
    assert ours.item() == pytest.approx(squared.mean().item())


def test_triplet_loss_agrees_with_pytorch_metric_learning_and_a_slow_loop() -> None:
    embeddings, malignant = views()
    ours = triplet_loss(embeddings, malignant, margin=0.2).item()
    assert ours == pytest.approx(oracle.TripletMarginLoss(margin=0.2)(embeddings, malignant.long()).item(), rel=1e-5)
    d = torch.cdist(embeddings, embeddings)
    costs = [
        (d[a, p] - d[a, n] + 0.2).item()
        for a in range(12)
        for p in range(12)
        for n in range(12)
        if a != p and malignant[a] == malignant[p] != malignant[n]
    ]
    positive = [cost for cost in costs if cost > 0]
    assert ours == pytest.approx(sum(positive) / len(positive), rel=1e-4)


def test_supervised_contrastive_loss_agrees_with_pytorch_metric_learning_and_a_slow_loop() -> None:
    embeddings, malignant = views()
    ours = supervised_contrastive_loss(embeddings, malignant).item()
    theirs = oracle.SupConLoss(temperature=0.1)(embeddings, malignant.long()).item()
    assert ours == pytest.approx(theirs, rel=1e-4)
    s = (embeddings @ embeddings.T / 0.1).tolist()
    slow = []
    for a in range(12):
        total = math.log(sum(math.exp(s[a][k]) for k in range(12) if k != a))
        positives = [p for p in range(12) if p != a and malignant[p] == malignant[a]]
        slow.append(-sum(s[a][p] - total for p in positives) / len(positives))
    assert ours == pytest.approx(sum(slow) / 12, rel=1e-4)


def test_cross_entropy_of_logits_worked_out_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3)])
    expected = (math.log(2) + math.log(4)) / 2  # P(melanoma) is 1/2 and 3/4; the first is melanoma, the second is not
    assert cross_entropy_loss(logits, torch.tensor([True, False])).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [lambda e, m: triplet_loss(e, m, 0.2), supervised_contrastive_loss])
def test_a_step_of_one_class_costs_nothing_that_is_not_finite(loss: Callable[..., torch.Tensor]) -> None:
    embeddings, _ = views()
    assert loss(embeddings.requires_grad_(), torch.zeros(12, dtype=torch.bool)).isfinite()
