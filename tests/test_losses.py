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
    distance_matrix,
    supervised_contrastive_loss,
    triplet_loss,
)


def on_the_circle(degrees: list[float] | torch.Tensor) -> torch.Tensor:
    angles = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_distances_of_points_at_known_angles() -> None:
    expected = torch.tensor([1e-6, 1.0, math.sqrt(2), 2.0], dtype=torch.float64)  # the floor keeps the slope finite
    distances = distance_matrix(on_the_circle([0, 60, 90, 180]))
    torch.testing.assert_close(distances[0], expected)
    assert torch.equal(distances, distances.T)


def test_distances_of_many_views_are_those_of_a_slow_loop() -> None:
    embeddings, _ = views()
    slow = [[math.dist(a, b) for b in embeddings.tolist()] for a in embeddings.tolist()]
    torch.testing.assert_close(distance_matrix(embeddings), torch.tensor(slow), rtol=0, atol=1e-3)  # 0 on the diagonal
    apart = ~torch.eye(len(slow), dtype=torch.bool)
    torch.testing.assert_close(distance_matrix(embeddings)[apart], torch.tensor(slow)[apart], rtol=0, atol=1e-6)


def test_loss_of_pairs_worked_out_by_hand() -> None:
    distances = torch.tensor([1.0, 0.5, 0.5, 1.5])
    same = torch.tensor([True, True, False, False])
    assert contrastive_loss(distances, same, margin=1.0).tolist() == [0.5, 0.125, 0.125, 0.0]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=30),
    margin=st.floats(0.1, 2),
)
def test_loss_agrees_with_a_slow_loop(pairs: list[tuple[float, bool]], margin: float) -> None:
    slow = [d * d / 2 if same else max(0.0, margin - d) ** 2 / 2 for d, same in pairs]
    distances = torch.tensor([d for d, _ in pairs], dtype=torch.float64)
    fast = contrastive_loss(distances, torch.tensor([same for _, same in pairs]), margin)
    assert fast.tolist() == pytest.approx(slow, abs=1e-12)


def test_a_step_down_the_gradient_pulls_same_pairs_together_and_pushes_different_ones_apart() -> None:
    for same in (True, False):
        degrees = torch.tensor([0.0, 30.0], requires_grad=True)
        before = distance_matrix(on_the_circle(degrees))[0, 1]
        contrastive_loss(before, torch.tensor(same), margin=1.0).backward()  # type: ignore[no-untyped-call]
        assert degrees.grad is not None
        after = distance_matrix(on_the_circle(degrees.detach() - 100 * degrees.grad))[0, 1]
        assert after < before if same else after > before


def test_equal_embeddings_have_a_finite_gradient() -> None:
    embeddings = on_the_circle([0.0, 0.0, 90.0]).requires_grad_()
    same = torch.tensor([[True, False, True]]).expand(3, -1)
    contrastive_loss(distance_matrix(embeddings), same, margin=1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_gradients_on_the_sphere_are_those_of_the_distances_of_the_pairs_themselves() -> None:
    embeddings, malignant = views()
    same, found = malignant[:, None] == malignant[None], []
    for distances in (distance_matrix, lambda points: torch.cdist(points, points)):
        raw = (3 * embeddings).requires_grad_()
        losses = contrastive_loss(distances(torch.nn.functional.normalize(raw, dim=1)), same, margin=1.0)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        found.append(raw.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-8)


def views(n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    return embeddings, torch.arange(n) % 3 == 0


def test_contrastive_loss_agrees_with_pytorch_metric_learning() -> None:
    """Theirs has no square and a margin a side: max(0, d) for the same and max(0, margin - d) for different pairs."""
    embeddings, malignant = views()
    i, j = torch.triu_indices(12, 12, 1)
    same = malignant[i] == malignant[j]
    ours = contrastive_loss(distance_matrix(embeddings)[i, j], same, margin=1.0)
    theirs = oracle.ContrastiveLoss(pos_margin=0, neg_margin=1.0, reducer=DoNothingReducer())
    parts = theirs(embeddings, malignant.long())
    assert (0.5 * parts["pos_loss"]["losses"] ** 2).mean().item() == pytest.approx(ours[same].mean().item(), rel=1e-5)
    assert torch.equal(contrastive_loss(distance_matrix(embeddings)[i, j], same.long(), margin=1.0), ours)
    negative = 0.5 * parts["neg_loss"]["losses"] ** 2
    assert negative.mean().item() == pytest.approx(ours[~same].mean().item(), rel=1e-5)


@pytest.mark.parametrize("margin", [0.2, 1.0])  # no and some negatives are nearer than that
def test_triplet_loss_agrees_with_pytorch_metric_learning_and_a_slow_loop(margin: float) -> None:
    embeddings, malignant = views()
    ours = triplet_loss(embeddings, malignant, margin).item()
    assert ours == pytest.approx(oracle.TripletMarginLoss(margin)(embeddings, malignant.long()).item(), rel=1e-5)
    d = torch.cdist(embeddings, embeddings)
    costs = [
        (d[a, p] - d[a, n] + margin).item()
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


def test_cross_entropy_agrees_with_a_slow_loop() -> None:
    """There is no oracle: pytorch-metric-learning has none of a single logit, and PyTorch's is what is tested."""
    embeddings, malignant = views()
    logits = 3 * embeddings[:, 0]
    slow = [-math.log(1 / (1 + math.exp(-z if m else z))) for z, m in zip(logits.tolist(), malignant, strict=True)]
    assert cross_entropy_loss(logits, malignant).item() == pytest.approx(sum(slow) / len(slow))


def test_cross_entropy_of_logits_worked_out_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3)])
    expected = (math.log(2) + math.log(4)) / 2  # P(melanoma) is 1/2 and 3/4; the first is melanoma, the second is not
    assert cross_entropy_loss(logits, torch.tensor([True, False])).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [lambda e, m: triplet_loss(e, m, 0.2), supervised_contrastive_loss])
def test_a_step_of_one_class_costs_nothing_that_is_not_finite(loss: Callable[..., torch.Tensor]) -> None:
    embeddings, _ = views()
    assert loss(embeddings.requires_grad_(), torch.zeros(12, dtype=torch.bool)).isfinite()


def test_supervised_contrastive_loss_is_of_the_anchors_that_have_a_positive() -> None:
    embeddings = on_the_circle([0, 60, 300])  # cosines 1/2, 1/2 and -1/2
    loss = supervised_contrastive_loss(embeddings, torch.tensor([True, True, False])).item()
    expected = (math.log(2) + math.log(1 + math.exp(-1 / 0.1))) / 2  # by the temperature of 0.1
    assert loss == pytest.approx(expected)
    assert supervised_contrastive_loss(embeddings[1:], torch.tensor([True, False])).item() == 0


def test_triplet_loss_of_one_triplet_that_costs_is_its_cost() -> None:
    loss = triplet_loss(on_the_circle([0, 60, 90]), torch.tensor([True, True, False]), margin=0.2)
    assert loss.item() == pytest.approx(1 - 2 * math.sin(math.radians(15)) + 0.2)
