"""The losses of metric learning: contrastive over pairs, and those a user will want to compare it with."""

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.1  # of the softmax over similarities, as Khosla et al. have it
LEAST = 1e-12  # squared distance; below it there is no gradient


def distance_matrix(embeddings: Tensor) -> Tensor:
    """Return the Euclidean distance of each of the embeddings `(V, D)`, unit length, to each, `(V, V)` in [0, 2].

    All pairs of a step in one product of matrices: on the unit sphere the squared distance is 2 - 2 cos. In float32 a
    distance below about 7e-4 is rounding: equal embeddings may seem that far apart, or 1e-6, where no gradient is.

    >>> distance_matrix(torch.eye(2))[0, 1]
    tensor(1.4142)
    """
    squared = 2 - 2 * (embeddings @ embeddings.T)
    # The slope of a square root is infinite at zero; equal embeddings must not turn the gradient into NaN.
    return functional.threshold(squared, LEAST, LEAST).sqrt()


def contrastive_loss(distances: Tensor, same: Tensor, margin: float) -> Tensor:
    """Return the contrastive loss of each pair, in the shape of `distances`.

    A same pair costs half its squared distance; a different one half the square of what it lacks to `margin`, and
    nothing beyond: equation 4 of Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant
    Mapping", CVPR 2006, doi 10.1109/CVPR.2006.100, where Y = 0 marks a same pair.

    Args:
        distances: at least 0, of any shape.
        same: bool (or 0 and 1), likewise.
        margin: the distance at which a different pair is far enough.

    >>> contrastive_loss(torch.tensor([0.6, 0.6]), torch.tensor([True, False]), margin=1.0)
    tensor([0.1800, 0.0800])
    """
    lack = (margin - distances).relu()
    return 0.5 * torch.where(same.bool(), distances, lack).square()


def triplet_loss(embeddings: Tensor, malignant: Tensor, margin: float) -> Tensor:
    """Return the triplet loss over all triplets of a step, a mean over those that cost anything, a scalar.

    A triplet costs what its negative lacks to being further from the anchor than its positive by `margin`: Schroff,
    Kalenichenko and Philbin, "FaceNet", CVPR 2015, with distances in place of their squares. The mean leaves out
    the triplets that are right already, as Hermans, Beyer and Leibe (2017) advise.

    Args:
        embeddings: unit length, `(V, D)`.
        malignant: the class of each, bool `(V,)`.
        margin: as a distance.
    """
    distances = distance_matrix(embeddings)
    alike = malignant[:, None] == malignant[None]
    positive = alike & ~torch.eye(len(malignant), dtype=torch.bool, device=malignant.device)
    cost = (distances[:, :, None] - distances[:, None, :] + margin).relu()  # anchor, positive, negative
    cost = cost * (positive[:, :, None] & ~alike[:, None, :])
    return cost.sum() / (cost > 0).sum().clamp_min(1)


def supervised_contrastive_loss(embeddings: Tensor, malignant: Tensor) -> Tensor:
    """Return the supervised contrastive loss of a step, a scalar.

    Equation 2 (L_out) of Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.

    Args:
        embeddings: unit length, `(V, D)`.
        malignant: the class of each, bool `(V,)`.
    """
    itself = torch.eye(len(malignant), dtype=torch.bool, device=malignant.device)
    similarities = (embeddings @ embeddings.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    log_probability = (similarities - similarities.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0)
    positive = (malignant[:, None] == malignant[None]) & ~itself
    n_positive = positive.sum(dim=1)
    of_anchor = -(log_probability * positive).sum(dim=1) / n_positive.clamp_min(1)
    return of_anchor.sum() / (n_positive > 0).sum().clamp_min(1)


def cross_entropy_loss(logits: Tensor, malignant: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of `logits` `(V,)` against the class, bool `(V,)`, a scalar."""
    return functional.binary_cross_entropy_with_logits(logits, malignant.to(logits.dtype))
