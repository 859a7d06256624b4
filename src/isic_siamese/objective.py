"""What training minimises: the loss that `train.loss` names, over the pairs or the views of a step."""

from typing import assert_never

import torch
from torch import Tensor, nn

from isic_siamese.losses import (
    contrastive_loss,
    cross_entropy_loss,
    distance_matrix,
    supervised_contrastive_loss,
    triplet_loss,
)
from isic_siamese.steps import Step
from isic_siamese.training_data import TrainParams

LOGIT_SCALE = 10  # of unit embeddings; without it a logit would need weights that few epochs do not reach


class Objective(nn.Module):
    """The loss of a step; to a pair or triplet loss the weighted cross-entropy of its views is added.

    Attributes:
        to_logit: learns with the encoder, and is of no use when training is over.
        margin: of the contrastive and the triplet loss, a distance.
    """

    def __init__(self, params: TrainParams, margin: float) -> None:
        super().__init__()
        self.to_logit = nn.Linear(params.embedding_dim, 1)
        self.margin = margin
        self._loss, self._weight = params.loss, params.cross_entropy_weight

    def forward(self, embeddings: Tensor, step: Step) -> Tensor:
        """Return the loss, a scalar, of the embeddings of a step's views, float32 `(V, D)`, unit length."""
        name, weight = self._loss, self._weight
        if name == "cross_entropy":
            return self._cross_entropy(embeddings, step)
        if name == "contrastive":
            losses = contrastive_loss(distance_matrix(embeddings), step.same, self.margin)
            loss = (step.weights * losses).sum()
        elif name == "triplet":
            loss = triplet_loss(embeddings, step.malignant, self.margin)
        elif name == "supervised_contrastive":
            loss = supervised_contrastive_loss(embeddings, step.malignant)
        else:
            assert_never(name)  # mypy names the choice of TrainParams that is not here
        return torch.add(loss, self._cross_entropy(embeddings, step), alpha=weight) if weight else loss

    def _cross_entropy(self, embeddings: Tensor, step: Step) -> Tensor:
        return cross_entropy_loss(self.to_logit(LOGIT_SCALE * embeddings).squeeze(1), step.malignant)
