"""From images to embeddings or pooled features, in batches, where nothing is learned."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from isic_siamese.arrays import Embeddings, Ints
from isic_siamese.devices import map_batches, to_device
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.errors import DataError
from isic_siamese.pooling import lesion_regions
from isic_siamese.shards import Shards


@torch.inference_mode()
def embed(
    encoder: SiameseEncoder, batches: Iterable[npt.NDArray[np.uint8] | Tensor], orientations: int = 1
) -> Embeddings:
    """Embed images on the encoder's device, which is not changed but for its mode.

    Args:
        encoder: left in evaluation mode.
        batches: uint8 RGB `(n, S, S, 3)`, in host memory or on that device.
        orientations: 1 embeds each image as it is; 8 takes the mean direction of its four quarter turns and their
            mirror images, because a lesion has no up or down.

    Returns:
        float32 `(N, D)`, unit length.

    Raises:
        ValueError: images of another type or size, or a number of orientations other than 1 and 8.
    """
    encoder.eval()
    embed_batch = partial(_mean_of_orientations, encoder, encoder, orientations=orientations)
    means = map_batches(embed_batch, batches, encoder.centre.device)
    # On the device until the last batch is under way: to fetch each would make the host wait for it.
    parts = [functional.normalize(mean, dim=1) for mean in means]
    return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, encoder.embedding_dim), np.float32)


def embed_rows(
    encoder: SiameseEncoder, shards: Shards, rows: Ints, orientations: int = 1, task: str | None = None
) -> Embeddings:
    """Embed the images at `rows` `(N,)` of `shards` as `embed` does; with a `task`, a progress bar names it.

    Raises:
        DataError: they are of another size than the encoder takes.
    """
    if shards.image_px != encoder.image_px:
        problem = f"images of {shards.image_px} px, the model takes {encoder.image_px}"
        raise DataError(f"{shards.folder}: {problem}; run 'dvc repro'")
    return embed(encoder, shards.batches(rows, max(1, encoder.batch_size // orientations), task), orientations)


@torch.no_grad()
def pool_rows(
    encoder: SiameseEncoder,
    shards: Shards,
    rows: Ints,
    orientations: int = 1,
    task: str | None = None,
    by_row: bool = False,
) -> Tensor:
    """Return the features that the encoder pools from the images at `rows` `(N,)`, float32 `(N, F)`, on its device.

    Of more than one orientation the mean, as in `embed`; with a `task`, a progress bar names it. Where `by_row`, those
    of every image of the shards, in their order, with zeros for images that are not at `rows`.
    """
    encoder.eval()
    features = encoder.centre.new_zeros(len(shards) if by_row else len(rows), len(encoder.centre))
    places = torch.from_numpy(rows if by_row else np.arange(len(rows))).to(features.device)
    size = max(1, encoder.batch_size // orientations)
    pool_batch = partial(_mean_of_orientations, encoder, encoder.features, orientations=orientations)
    pooled = map_batches(pool_batch, shards.batches(rows, size, task), features.device)
    for part, of_batch in zip(torch.split(places, size), pooled, strict=True):
        features[part] = of_batch
    return features


def _mean_of_orientations(
    encoder: SiameseEncoder,
    answer: Callable[[Tensor, Tensor], Tensor],
    batch: npt.NDArray[np.uint8] | Tensor,
    orientations: int,
) -> Tensor:
    """Return the mean of what `answer` gives for each orientation of the images `(n, S, S, 3)`.

    The lesion is found once in each image, and turned with it.
    """
    if orientations not in (1, 8):
        raise ValueError(f"orientations: wanted 1 or 8, got {orientations}")
    # Mirrored arrays, and those that may not be written to, are no tensors.
    images = torch.as_tensor(np.require(batch, requirements=["C", "W"]) if isinstance(batch, np.ndarray) else batch)
    side = encoder.image_px
    if images.dtype != torch.uint8 or images.shape[1:] != (side, side, 3):
        got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise ValueError(f"wanted images as uint8 (n, {side}, {side}, 3), got {got}")
    images = to_device(images, encoder.centre.device)
    views, regions = _orient(images, orientations, (1, 2)), _orient(lesion_regions(images), orientations, (2, 3))
    return answer(views, regions).view(orientations, len(batch), -1).mean(dim=0)


def _orient(images: Tensor, orientations: int, sides: tuple[int, int]) -> Tensor:
    """Return the orientations, one after the other, of images whose height and width are the dimensions `sides`."""
    held = (images if number < 4 else images.flip(sides[1]) for number in range(orientations))
    return torch.cat([torch.rot90(way, number % 4, sides) for number, way in enumerate(held)])
