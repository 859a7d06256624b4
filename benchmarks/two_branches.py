"""The classic two-branch Siamese loop, as public projects have it: the rival of `benchmarks/train.py`."""

import io
import os
import statistics
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.decode import draw_official_mix
from isic_siamese.losses import contrastive_loss
from isic_siamese.trainer import Trainer

JPEGS = 256  # at most, held in memory
ENDLESS = 10**9  # pairs of a pass, so that no turn comes to its end

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], bool]


class PairsOf(Dataset[Pair]):
    """The pairs of an index, their images by `read`."""

    def __init__(self, pairs: npt.NDArray[np.int64], read: Callable[[int], npt.NDArray[np.uint8]]) -> None:
        self.pairs, self.read = pairs, read

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Pair:
        left, right, same = self.pairs[position]
        return self.read(left), self.read(right), bool(same)


def decoder(jpegs: list[bytes], px: int) -> Callable[[int], npt.NDArray[np.uint8]]:
    """Return what decodes one of `jpegs` for each row, as public Siamese projects do: in full, then resized."""
    return lambda row: np.array(Image.open(io.BytesIO(jpegs[row % len(jpegs)])).convert("RGB").resize((px, px)))


class TwoBranches:
    """The classic loop: a DataLoader that never ends, and one step."""

    def __init__(self, trainer: Trainer, dataset: PairsOf, n_pairs: int) -> None:
        self.trainer, on_cuda = trainer, trainer.device.type == "cuda"
        workers = os.cpu_count() or 1 if on_cuda else 0
        # Batches on their way lie in /dev/shm, 0.1 GB each where they have 1,024 pairs: one a worker.
        ahead = 1 if workers else None
        self.loader = DataLoader(
            dataset,
            n_pairs,
            sampler=RandomSampler(dataset, replacement=True, num_samples=ENDLESS),
            drop_last=True,
            num_workers=workers,
            prefetch_factor=ahead,
            pin_memory=on_cuda,
            multiprocessing_context="fork" if workers else None,  # the default before Python 3.14: nothing is pickled
        )
        self.batches: Iterator[list[Tensor]] = iter(())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have workers while the block runs, and none that take the cores from others after it."""
        self.batches = iter(self.loader)
        for _ in range(self.loader.num_workers):  # which start together: until they are in step, their first ones
            next(self.batches)
        yield
        self.batches = iter(())

    def step(self) -> None:
        """Embed both sides of a batch of pairs, and move the weights."""
        run = self.trainer
        left, right, same = (part.to(run.device, non_blocking=True) for part in next(self.batches))
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bfloat16):
            embeddings = run.encoder(left), run.encoder(right)
        distances = torch.nn.functional.pairwise_distance(*embeddings)
        finish_step(run, contrastive_loss(distances, same, run.objective.margin).mean())


def finish_step(run: Trainer, loss: Tensor) -> None:
    """What every loop ends with."""
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()


def read_jpegs(path: Path) -> tuple[list[bytes], str]:
    """Return JPEGs of the release, or drawn ones of the official sizes, and what they are."""
    if not path.exists():
        return draw_official_mix(), "drawn in the official sizes, half of them of 24 megapixels"
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        jpegs = [archive.read(name) for name in names[:JPEGS]]
    sizes = [Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs]
    return jpegs, f"of {path.name}, {statistics.median(x * y for x, y in sizes) / 1e6:.2g} megapixels in the median"
