"""The contrastive loss, over the distances of pairs of embeddings."""

import torch
from torch import Tensor


def pair_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the Euclidean distances `(P,)` of two sets of embeddings `(P, D)`; in [0, 2] where they have unit length.

    >>> pair_distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([1.4142])
    """
    squared = (left - right).square().sum(dim=1)
    # The slope of a square root is infinite at zero; equal embeddings must not turn the gradient into NaN.
    return squared.clamp_min(1e-12).sqrt()


def contrastive_loss(distances: Tensor, same: Tensor, margin: float) -> Tensor:
    """Return the mean contrastive loss of pairs, a scalar.

    A same pair costs half its squared distance; a different one half the square of what it lacks to `margin`, and
    nothing beyond: equation 4 of Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant
    Mapping", CVPR 2006, doi 10.1109/CVPR.2006.100, where Y = 0 marks a same pair.

    Args:
        distances: `(P,)`, at least 0.
        same: bool `(P,)`.
        margin: the distance at which a different pair is far enough.

    >>> contrastive_loss(torch.tensor([0.6, 0.6]), torch.tensor([True, False]), margin=1.0)
    tensor(0.1300)
    """
    lack = (margin - distances).clamp_min(0)
    return 0.5 * torch.where(same, distances, lack).square().mean()
