"""What a training run depends on: its parameters, the images and pairs it reads, and the name these give it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from isic_siamese import ranks
from isic_siamese.arrays import Bools, Ints
from isic_siamese.augment import AugmentParams
from isic_siamese.checkpoint import run_key
from isic_siamese.devices import device_name, pick_device
from isic_siamese.errors import DataError
from isic_siamese.params import Count, Positive, Section
from isic_siamese.shards import READ_BATCH, Shards


def _check_groups(value: object) -> object:
    if value == "all" or (type(value) is int and value >= 0):
        return value
    raise PydanticCustomError("frozen_groups", "Input should be 'all' or an integer from 0")


FrozenGroups = Annotated[int | Literal["all"], BeforeValidator(_check_groups)]


class TrainParams(Section):
    """Section `train`."""

    encoder: str
    weights: Literal["imagenet", "timm", "none"]
    stages: Count
    frozen_groups: FrozenGroups
    embedding_dim: Annotated[int, Field(ge=2, le=16384)]
    loss: Literal["contrastive", "triplet", "supervised_contrastive", "cross_entropy"]
    cross_entropy_weight: Annotated[float, Field(ge=0, le=100)]
    epochs: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    warmup_epochs: Annotated[float, Field(ge=0)]
    precision: Literal["auto", "float32", "bfloat16"]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.weights == "none" and self.frozen_groups:
            raise ValueError("frozen_groups would keep random weights; with weights: none set frozen_groups to 0")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"the warm-up would end after training: warmup_epochs is {self.warmup_epochs:g}, epochs {self.epochs}; "
                "lower the one or raise the other"
            )
        return self


@dataclass(frozen=True)
class TrainingData:
    """What training reads.

    Attributes:
        shards: the images, uint8.
        malignant: whether each image is melanoma, `(N,)` in row order.
        train_rows: rows of the training split, the references of the validation AUC.
        val_rows: rows of the validation split.
        pairs: the pair index of the training split; one step of the optimizer sees a block of it.
    """

    shards: Shards
    malignant: Bools
    train_rows: Ints
    val_rows: Ints
    pairs: pd.DataFrame


def check_classes(data: TrainingData) -> None:
    """Raise `DataError` where the training or the validation split lacks one of the classes."""
    for name, rows in (("train", data.train_rows), ("val", data.val_rows)):
        n_melanoma = int(data.malignant[rows].sum())
        if n_melanoma in (0, len(rows)):
            raise DataError(
                f"split {name}: wanted images of both classes, got {n_melanoma} melanoma of {len(rows)}; "
                f"use a release with more patients, or a larger split.{name}"
            )


def training_key(data: TrainingData, params: TrainParams, recipe: AugmentParams, margin: float, seed: int) -> str:
    """Return a name for a run that changes with anything that its result depends on."""
    # On another machine, or with more threads, it would go on and end in other bytes than either.
    processor = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    machine = f"{device_name(pick_device())} {processor} {ranks.n_ranks()}"
    sizes = f"{len(data.train_rows)} {len(data.val_rows)} {len(data.pairs)}"
    settings = [params.model_dump_json(), recipe.model_dump_json(), f"{margin} {seed} {sizes}", machine]
    return run_key(_facts(data, settings))


def _facts(data: TrainingData, settings: list[str]) -> Iterator[bytes | memoryview]:
    yield from (text.encode() for text in settings)
    for array in (data.malignant, data.train_rows, data.val_rows, data.pairs.to_numpy(np.int64)):
        yield array.tobytes()
    for batch in data.shards.batches(np.arange(len(data.shards)), READ_BATCH):  # never all of them in memory
        yield batch.data
