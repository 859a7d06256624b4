"""One training run: the Siamese encoder, its optimizer, the images on the device, and one step over pairs."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from isic_siamese import ranks
from isic_siamese.arrays import Embeddings, Ints
from isic_siamese.augment import N_DRAWS, AugmentParams, augment
from isic_siamese.devices import (
    be_deterministic,
    explaining_out_of_memory,
    map_batches,
    pick_device,
    seed_device,
    share_one_heap,
    to_device,
)
from isic_siamese.embedding import embed, pool_rows
from isic_siamese.encoder import build_encoder
from isic_siamese.errors import ParamsError, TrainingError
from isic_siamese.image_source import ImageSource, fits
from isic_siamese.objective import Objective
from isic_siamese.optimization import build_optimizer
from isic_siamese.pooling import lesion_regions
from isic_siamese.steps import Step, cut_steps
from isic_siamese.training_data import TrainingData, TrainParams, check_classes, training_key
from isic_siamese.votes import SILENT, learned_from, vote_scores

PROJECTED = 4096  # images whose features are copied at a time, 41 MB
STANDARDISED = 1024  # training images, at most, by which the features are standardised
# Batches of the encoder whose views are prepared together.
AHEAD = 4  # where layers learn: with the default parameters 32 steps on a GPU, one on a CPU
MORE_AHEAD = 16  # where none do, and only features are held: 128 steps on a GPU, 4 on a CPU, a batch for each core
GENTLER = "lower train.learning_rate, or raise train.warmup_epochs"

# Of a step's views, what weights that learn take: features `(V, F)`, or images `(V, S, S, 3)` and their lesion regions.
Views = tuple[Tensor, ...]


class Validation(NamedTuple):
    """ROC AUC of the validation images, and their embeddings, float32 `(N, D)`, in the order of `val_rows`."""

    roc_auc: float
    embeddings: Embeddings


class Trainer:
    """One training run: the encoder, its optimizer, and the steps of an epoch."""

    @explaining_out_of_memory()
    def __init__(
        self, data: TrainingData, params: TrainParams, recipe: AugmentParams, margin: float, seed: int
    ) -> None:
        """Build the encoder, and copy the images to the device where they fit.

        Raises:
            DataError: the training or validation split lacks one of the classes.
            ParamsError: there is no such encoder, or no such weights for it, or it has fewer layer groups than
                `frozen_groups`; or there are more processes than views.
            TrainingError: memory ran out.
        """
        check_classes(data)
        self.data, self.params, self.recipe, self.seed = data, params, recipe, seed
        self.device = pick_device()
        self.bfloat16 = params.precision == "bfloat16" or (params.precision == "auto" and self.device.type == "cuda")
        be_deterministic(self.device)
        torch.manual_seed(seed)
        px = data.shards.image_px
        encoder = build_encoder(params.encoder, params.weights, params.stages, params.embedding_dim, px)
        encoder.freeze(None if params.frozen_groups == "all" else params.frozen_groups)
        self.encoder = encoder.to(self.device).to(memory_format=torch.channels_last)
        self.encoder.backbone = ranks.share_batch_statistics(self.encoder.backbone, self.device)
        self.objective = Objective(params, margin).to(self.device)
        self.features = self._pool_features()
        self.images = ImageSource(data.shards, self.device, fits(data.shards, self.device))
        self.steps = cut_steps(data.pairs, data.malignant, self.device)
        n_views = [len(step.rows) for step in self.steps]
        _check_ranks(min(n_views))
        self.images_per_epoch = sum(n_views)
        n_batches = AHEAD if self.features is None else MORE_AHEAD
        self.ahead = max(1, n_batches * self.encoder.batch_size // max(n_views))
        new = [self.encoder.head, self.objective]
        self.optimizer, self.schedule = build_optimizer(self.encoder.backbone, new, params, len(self.steps))
        modules = nn.ModuleList([self.encoder, self.objective])
        self._parts: dict[str, Any] = {"modules": modules, "optimizer": self.optimizer, "schedule": self.schedule}

    def _pool_features(self) -> Tensor | None:
        """Standardise the features; where no layer of the backbone learns, return those of each image, `(N, F)`.

        An image that is not augmented then goes through the backbone once, and not once an epoch; of several processes
        each takes its share of them.
        """
        data = self.data
        if self.encoder.learns_features:
            share_one_heap()  # the maps of a step take far more than those of a batch that is only embedded
            self.encoder.standardise(pool_rows(self.encoder, data.shards, _some(data.train_rows)))
            return None
        rows, task = np.concatenate([data.train_rows, data.val_rows]), "features" if ranks.rank() == 0 else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            own = rows[ranks.share(len(rows))]
            features = pool_rows(self.encoder, data.shards, own, task=task, by_row=True)
        ranks.sum_in_place(features)  # zeros but for one's own: exact
        self.encoder.standardise(features[torch.from_numpy(_some(data.train_rows)).to(self.device)])
        return features

    @cached_property
    def key(self) -> str:
        """A name for this run that changes with anything that its result depends on."""
        return training_key(self.data, self.params, self.recipe, self.objective.margin, self.seed)

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on from here."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def epoch_order(self, epoch: int) -> list[int]:
        """Return the positions of the steps in the order of this epoch."""
        return [int(position) for position in np.random.default_rng([self.seed, epoch]).permutation(len(self.steps))]

    def run_steps(self, epoch: int, order: list[int], done: int = 0) -> Iterator[Tensor]:
        """Take the steps at `order`, but for the first `done`, and yield the loss of each, a scalar.

        What does not depend on weights that learn is done for the next `ahead` steps at once. Which ones go together
        must not depend on `done`: the last bits of a float sum depend on it.
        """
        for start in range(done // self.ahead * self.ahead, len(order), self.ahead):
            positions = order[start : start + self.ahead]
            todo = slice(max(0, done - start), None)
            for position, views in zip(positions[todo], self.prepare(epoch, positions)[todo], strict=True):
                yield self.run_step(epoch, position, views)

    def run_step(self, epoch: int, position: int, views: Views) -> Tensor:
        """Embed each view of a step once, compare its pairs, and move the weights; return the loss, a scalar.

        `views` is what `prepare` gave for the step.
        """
        step = self.steps[position]
        if self.features is None:
            seed_device(self.device, self._seed(epoch, position) + ranks.rank())  # of dropout, in encoders that have it
        embeddings = self.embed_views(views)
        loss: Tensor = self.objective(ranks.gather(embeddings, len(step.rows)), step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        ranks.sum_gradients(self.encoder.parameters())  # the objective has seen all embeddings in each process
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def embed_views(self, views: Views) -> Tensor:
        """Return the embeddings of a step's views, float32 `(V, D)`; of several processes, this one's share of them."""
        return self.encoder.project(self._pool(*views) if self.features is None else views[0])

    @torch.no_grad()
    def prepare(self, epoch: int, positions: list[int]) -> list[Views]:
        """Return the views of some steps, copies augmented, as far as no weight that learns is needed.

        Where no layer of the backbone learns, these are their features, else their images and the regions of the
        lesions in them; of several processes each has its share. Of several steps together, because a GPU takes little
        longer for hundreds of images than for a step's few.
        """
        rows, draws, copied = [], [], []
        for position in positions:
            step = self.steps[position]
            own = ranks.share(len(step.rows)) if self.features is None else slice(None)
            rows.append(step.rows[own])
            draws.append(self._draws(epoch, position)[own])
            copied.append(np.arange(len(step.rows))[own] >= self.n_plain(step))
        n_views, views, copy = [len(part) for part in rows], torch.cat(rows), np.concatenate(copied)
        at_plain, at_copies = (torch.from_numpy(np.flatnonzero(which)) for which in (~copy, copy))
        plain, copies, drawn = views[at_plain], views[at_copies], torch.cat(draws)[at_copies]
        order = to_device(torch.cat([at_plain, at_copies]).argsort(), self.device)  # back to that of the steps
        if self.features is not None:
            known = self.features[to_device(plain, self.device)]
            features = torch.cat([known, self._pool_copies(copies, drawn)]).index_select(0, order)
            return [(part[ranks.share(len(part))],) for part in torch.split(features, n_views)]
        augmented = augment(self.images.take(copies), drawn, self.recipe)
        images = torch.cat([self.images.take(plain), augmented]).index_select(0, order)
        return list(zip(torch.split(images, n_views), torch.split(lesion_regions(images), n_views), strict=True))

    def n_plain(self, step: Step) -> int:
        """Return how many of a step's views, which come first, are not augmented."""
        return 0 if self.recipe.apply_to == "all" else step.n_plain

    def _pool_copies(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Return the features of the images at `rows` `(v,)`, augmented, `(v, F)`; each process pools a share."""

        def pool_batch(at: slice) -> Tensor:
            return self._pool(augment(self.images.take(rows[at]), draws[at], self.recipe))

        own, size = ranks.share(len(rows)), self.encoder.batch_size
        batches = (slice(start, min(start + size, own.stop)) for start in range(own.start, own.stop, size))
        none = self.encoder.centre.new_empty(0, len(self.encoder.centre))
        return ranks.gather(torch.cat([none, *map_batches(pool_batch, batches, self.device)]), len(rows))

    def _pool(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """Return the features of images, arguments as the encoder takes them, in the precision of the run."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.encoder.features(images, regions)

    def _draws(self, epoch: int, position: int) -> Tensor:
        """Return what `augment` takes for the views of a step, `(V, N_DRAWS)`, in host memory."""
        generator = torch.Generator().manual_seed(self._seed(epoch, position))
        return torch.rand(len(self.steps[position].rows), N_DRAWS, generator=generator)

    def _seed(self, epoch: int, position: int) -> int:
        """Return a seed for the step alone, so that a run that goes on draws what it would have drawn."""
        return int(np.random.SeedSequence([self.seed, epoch, position]).generate_state(1)[0])

    def validate(self) -> Validation:
        """Embed the validation images, and score them by the votes of the training images.

        Raises:
            TrainingError: all images have the same embedding, or one that is not finite.
        """
        data = self.data
        heard = data.train_rows[learned_from(data.malignant[data.train_rows])]
        references, embeddings = self._embed(heard), self._embed(data.val_rows)
        if not (np.isfinite(references).all() and np.isfinite(embeddings).all()):
            raise TrainingError(f"training: the embeddings are no longer finite; {GENTLER}")
        scores = vote_scores(embeddings, references, data.malignant[heard])
        if not scores.std() > SILENT:
            spread = f"scores differ by {scores.std():.1e}"
            raise TrainingError(f"training: all embeddings have become alike ({spread}); {GENTLER}")
        return Validation(float(roc_auc_score(data.malignant[data.val_rows], scores)), embeddings)

    def _embed(self, rows: Ints) -> Embeddings:
        """Embed the images at `rows`, each process its share of them."""
        if self.features is not None:
            parts = torch.split(torch.from_numpy(rows).to(self.device), PROJECTED)
            with torch.inference_mode():
                embedded = [self.encoder.project(self.features[part]).cpu().numpy() for part in parts]
            return np.concatenate(embedded)
        part = torch.from_numpy(rows[ranks.share(len(rows))])
        starts = range(0, len(part), self.encoder.batch_size)
        own = embed(self.encoder, (self.images.take(part[i : i + self.encoder.batch_size]) for i in starts))
        return ranks.gather(torch.from_numpy(own).to(self.device), len(rows)).cpu().numpy()


def _some(rows: Ints) -> Ints:
    """Return at most `STANDARDISED` of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), STANDARDISED)).astype(np.int64)]


def _check_ranks(n_views: int) -> None:
    if ranks.n_ranks() > n_views:
        raise ParamsError(
            f"pairs.views_per_block: a step of {n_views} views among {ranks.n_ranks()} processes; "
            "raise it, or start fewer"
        )
