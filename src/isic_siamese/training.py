"""Train for some epochs, keep the best on validation, and lose nothing when killed."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from isic_siamese import ranks
from isic_siamese.arrays import Embeddings
from isic_siamese.checkpoint import Checkpoint
from isic_siamese.devices import device_name, explaining_out_of_memory
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.errors import TrainingError
from isic_siamese.trainer import GENTLER, Trainer

log = logging.getLogger(__name__)

LOOK_EVERY = 50  # steps; to read a loss is to wait for the device, and for all that it was asked to prepare


@dataclass(frozen=True)
class Trained:
    """What a run came to.

    Attributes:
        encoder: as it was after its best epoch.
        history: what each epoch came to: `epoch, loss, val_roc_auc`.
        first: embeddings of the validation images after the first epoch, float32 `(N, D)`.
        best: likewise after the best one.
    """

    encoder: SiameseEncoder
    history: pd.DataFrame
    first: Embeddings
    best: Embeddings

    def summary(self) -> dict[str, float]:
        """Return the best epoch, counted from 1, and its figures."""
        best = self.history.iloc[int(self.history["val_roc_auc"].argmax())].to_dict()
        return {"best_epoch": int(best["epoch"]), "loss": best["loss"], "val_roc_auc": best["val_roc_auc"]}


@dataclass
class Progress:
    """How far a run has come: whole epochs in `history`, steps of the next one in `done`, and the best weights.

    `embeddings` are those of the validation images, after the `first` epoch and the `best`.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0
    total: float = 0.0  # of the losses of those steps

    def end_epoch(self, trainer: Trainer) -> None:
        """Add the epoch to the history, and keep its weights where they are the best so far."""
        auc, embeddings = trainer.validate()
        if auc > max((row["val_roc_auc"] for row in self.history), default=-1.0):
            self.best = {name: tensor.clone() for name, tensor in trainer.encoder.state_dict().items()}
            self.embeddings["best"] = torch.from_numpy(embeddings)
        self.embeddings.setdefault("first", torch.from_numpy(embeddings))
        self.history.append({"epoch": len(self.history) + 1, "loss": self.total / self.done, "val_roc_auc": auc})
        if ranks.rank() == 0:
            log.info("epoch %(epoch)d: loss %(loss).4f, validation ROC AUC %(val_roc_auc).3f", self.history[-1])
        self.done, self.total = 0, 0.0

    def n_images(self, trainer: Trainer) -> int:
        """Return how many images the encoder has seen."""
        order = trainer.epoch_order(len(self.history))[: self.done]
        return len(self.history) * trainer.images_per_epoch + sum(len(trainer.steps[i].rows) for i in order)


@explaining_out_of_memory()
def train(trainer: Trainer, checkpoints: Path, on_epoch: Callable[[pd.DataFrame], None]) -> Trained:
    """Train for `params.epochs` epochs and keep the one with the highest validation ROC AUC, the first of equals.

    Args:
        trainer: a new one.
        checkpoints: the folder where a run that was killed left its state. It stays there, whole, for the caller to
            delete by `Checkpoint.forget` when the results are written.
        on_epoch: called with the history so far after each epoch.

    Raises:
        TrainingError: the loss is no longer finite, all embeddings are alike, or memory ran out.
    """
    checkpoint = Checkpoint(checkpoints, trainer.key) if ranks.rank() == 0 else None  # one process saves for all
    progress = Progress()
    if state := ranks.from_first(checkpoint and checkpoint.load()):
        trainer.load_state(state["trainer"])
        progress = Progress(**state["progress"])
    epochs, n_images = trainer.params.epochs, progress.n_images(trainer)
    if ranks.rank() == 0:
        precision = "bfloat16" if trainer.bfloat16 else "float32"
        log.info("on %s, encoder in %s, %d steps an epoch", device_name(trainer.device), precision, len(trainer.steps))
    bar = tqdm(total=epochs * trainer.images_per_epoch, initial=n_images, unit="image", disable=ranks.rank() > 0)
    with bar, logging_redirect_tqdm():
        while len(progress.history) < epochs:
            _run_epoch(trainer, progress, checkpoint, bar)
            progress.end_epoch(trainer)
            on_epoch(pd.DataFrame(progress.history))
            if checkpoint and (checkpoint.due() or len(progress.history) == epochs):
                _save(trainer, progress, checkpoint)
    trainer.encoder.load_state_dict(progress.best)
    first, best = (progress.embeddings[name].numpy() for name in ("first", "best"))
    return Trained(trainer.encoder, pd.DataFrame(progress.history), first, best)


def _run_epoch(trainer: Trainer, progress: Progress, checkpoint: Checkpoint | None, bar: "tqdm[NoReturn]") -> None:
    """Take the steps of the epoch that are not done yet."""
    epoch = len(progress.history)
    trainer.encoder.train()
    order = trainer.epoch_order(epoch)
    total = torch.tensor(progress.total, device=trainer.device)
    bar.set_description(f"epoch {epoch + 1}/{trainer.params.epochs}")
    auc = f"{progress.history[-1]['val_roc_auc']:.3f}" if progress.history else "none yet"
    losses = trainer.run_steps(epoch, order, progress.done)
    for position, loss in zip(order[progress.done :], losses, strict=True):
        total += loss
        progress.done += 1
        bar.update(len(trainer.steps[position].rows))
        if progress.done % LOOK_EVERY == 0 or progress.done == len(order):
            progress.total = total.item()
            _check_finite(progress.total, epoch)
            bar.set_postfix(loss=f"{progress.total / progress.done:.4f}", val_roc_auc=auc)
        if checkpoint and checkpoint.due():
            progress.total = total.item()
            _save(trainer, progress, checkpoint)


def _check_finite(total: float, epoch: int) -> None:
    if not math.isfinite(total):
        raise TrainingError(f"training: the loss is no longer finite in epoch {epoch + 1}; {GENTLER}")


def _save(trainer: Trainer, progress: Progress, checkpoint: Checkpoint) -> None:
    checkpoint.save({"trainer": trainer.state(), "progress": vars(progress)})
