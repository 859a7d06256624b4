"""Train the Siamese encoder: contrastive loss over the pair index, the best epoch chosen on validation."""

import copy
import logging
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field
from sklearn.metrics import roc_auc_score
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from isic_siamese.augment import N_DRAWS, AugmentParams, augment
from isic_siamese.classifier import reference_scores
from isic_siamese.encoder import EMBED_BATCH, SiameseEncoder, build_encoder, embed, pick_device
from isic_siamese.losses import contrastive_loss, pair_distances
from isic_siamese.params import Count, Positive, Section
from isic_siamese.shards import Shards

log = logging.getLogger(__name__)


class TrainParams(Section):
    """Section `train`."""

    encoder: str
    weights: Literal["imagenet", "none"]
    embedding_dim: Annotated[int, Field(ge=2)]
    epochs: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_epochs: Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class TrainingData:
    """What training reads.

    Attributes:
        shards: the images, uint8.
        malignant: whether each image is melanoma, `(N,)` in row order.
        train_rows: rows of the training split, the references of the validation AUC.
        val_rows: rows of the validation split.
        pairs: the pair index of the training split.
        pairs_per_step: how many consecutive pairs one step of the optimizer sees.
    """

    shards: Shards
    malignant: npt.NDArray[np.bool_]
    train_rows: npt.NDArray[np.int64]
    val_rows: npt.NDArray[np.int64]
    pairs: pd.DataFrame
    pairs_per_step: int


@dataclass(frozen=True)
class Step:
    """A run of consecutive pairs, with each distinct view named once.

    Attributes:
        rows: the image of each view, int64 `(V,)`.
        oversampled: whether the view is an extra copy, bool `(V,)`.
        left: the view on the left of each pair, an index into `rows`, int64 `(P,)`.
        right: likewise.
        same: whether both are of one class, bool `(P,)`.
    """

    rows: Tensor
    oversampled: Tensor
    left: Tensor
    right: Tensor
    same: Tensor


def cut_steps(pairs: pd.DataFrame, pairs_per_step: int, device: torch.device) -> list[Step]:
    """Cut the pair index into steps, and find each step's distinct views, so that an image is embedded once a step."""
    columns = torch.tensor(pairs.to_numpy(np.int64))
    steps = []
    for part in torch.split(columns, pairs_per_step):
        left, right, left_view, right_view, same = part.unbind(1)
        ends = torch.stack([torch.cat([left, right]), torch.cat([left_view, right_view])], dim=1)
        views, inverse = torch.unique(ends, dim=0, return_inverse=True)
        fields = (views[:, 0], views[:, 1] > 0, inverse[: len(part)], inverse[len(part) :], same.bool())
        steps.append(Step(*(field.contiguous().to(device) for field in fields)))
    return steps


def learning_rate_factor(step: int, n_warmup: int, n_steps: int) -> float:
    """Return the share of the peak learning rate at `step`: a line up to it, then half a cosine down to zero.

    >>> [round(learning_rate_factor(step, 2, 6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


class Trainer:
    """One training run: the encoder, its optimizer, and the steps of an epoch."""

    def __init__(
        self, data: TrainingData, params: TrainParams, recipe: AugmentParams, margin: float, seed: int
    ) -> None:
        """Build the encoder and move the images to the device."""
        self.data, self.params, self.recipe, self.margin, self.seed = data, params, recipe, margin, seed
        self.device = pick_device()
        torch.manual_seed(seed)
        encoder = build_encoder(params.encoder, params.weights, params.embedding_dim, data.shards.image_px)
        self.encoder = encoder.to(self.device).to(memory_format=torch.channels_last)
        self.images = torch.from_numpy(data.shards.images(np.arange(len(data.shards)))).to(self.device)
        self.steps = cut_steps(data.pairs, data.pairs_per_step, self.device)
        groups = param_groups_weight_decay(self.encoder, params.weight_decay)  # none on biases and norms
        self.optimizer = torch.optim.AdamW(groups, lr=params.learning_rate)
        n_warmup = round(params.warmup_epochs * len(self.steps))
        n_steps = params.epochs * len(self.steps)
        self.schedule = LambdaLR(self.optimizer, lambda step: learning_rate_factor(step, n_warmup, n_steps))

    def run_epoch(self, epoch: int) -> float:
        """Go once through the pair index, in this epoch's order and with its augmentation; return the mean loss."""
        # Of the epoch alone, so that a run that goes on after a stop draws what it would have drawn.
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        torch.manual_seed(generator.initial_seed())
        order = torch.randperm(len(self.steps), generator=generator).tolist()
        self.encoder.train()
        total = torch.zeros((), device=self.device)
        bar = tqdm(order, desc=f"epoch {epoch + 1}/{self.params.epochs}", unit="step", leave=False)
        for done, position in enumerate(bar, start=1):
            step = self.steps[position]
            draws = torch.rand(len(step.rows), N_DRAWS, generator=generator).to(self.device)
            total += self.run_step(step, draws)
            if done % 10 == 0 or done == len(order):  # reading a loss waits for the device
                bar.set_postfix(loss=f"{total.item() / done:.4f}")
        return total.item() / len(order)

    def run_step(self, step: Step, draws: Tensor) -> Tensor:
        """Embed each view of `step` once, compare its pairs, and move the weights; return the loss, a scalar."""
        images = self.images[step.rows]
        augmented = augment(images, draws, self.recipe)
        if self.recipe.apply_to == "oversampled":
            augmented = torch.where(step.oversampled.view(-1, 1, 1, 1), augmented, images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embeddings = self.encoder(augmented)
        loss = contrastive_loss(pair_distances(embeddings[step.left], embeddings[step.right]), step.same, self.margin)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def validation_roc_auc(self) -> float:
        """Return the ROC AUC of the validation images, scored by comparison with the training images."""
        data = self.data
        references, embeddings = (
            embed(self.encoder, data.shards.batches(rows, EMBED_BATCH)) for rows in (data.train_rows, data.val_rows)
        )
        scores = reference_scores(embeddings, references, data.malignant[data.train_rows])
        return float(roc_auc_score(data.malignant[data.val_rows], scores))


@dataclass(frozen=True)
class Trained:
    """The encoder as it was after its best epoch, and what each epoch came to: `epoch, loss, val_roc_auc`."""

    encoder: SiameseEncoder
    history: pd.DataFrame

    def summary(self) -> dict[str, float]:
        """Return the best epoch, counted from 1, and its figures."""
        best = self.history.iloc[int(self.history["val_roc_auc"].argmax())].to_dict()
        return {"best_epoch": int(best["epoch"]), "loss": best["loss"], "val_roc_auc": best["val_roc_auc"]}


def train(trainer: Trainer) -> Trained:
    """Train for `params.epochs` epochs and keep the one with the highest validation ROC AUC, the first of equals."""
    history: list[dict[str, float]] = []
    best_state: dict[str, Tensor] = {}
    for epoch in range(trainer.params.epochs):
        loss = trainer.run_epoch(epoch)
        auc = trainer.validation_roc_auc()
        if auc > max((row["val_roc_auc"] for row in history), default=-1.0):
            best_state = copy.deepcopy(trainer.encoder.state_dict())
        history.append({"epoch": epoch + 1, "loss": loss, "val_roc_auc": auc})
        log.info("epoch %d: loss %.4f, validation ROC AUC %.3f", epoch + 1, loss, auc)
    trainer.encoder.load_state_dict(best_state)
    return Trained(trainer.encoder, pd.DataFrame(history))
