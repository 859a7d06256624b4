"""Where training takes its images from: the device's memory where they fit, else the shards."""

import numpy as np
import torch
from torch import Tensor

from isic_siamese.devices import to_device
from isic_siamese.shards import Shards

CHUNK = 1024  # images on their way to the device
MOST = 0.5  # of the device's free memory; the rest is for the network


def fits(shards: Shards, device: torch.device) -> bool:
    """Return whether the images go into the memory of `device`: never on a CPU, whose memory is what reading spares."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return len(shards) * 3 * shards.image_px**2 <= MOST * free


class ImageSource:
    """The images of the shards, to be taken by row."""

    def __init__(self, shards: Shards, device: torch.device, resident: bool) -> None:
        """Copy all images to `device` where `resident`; else read from the shards what is asked for, each time."""
        self._shards, self._device = shards, device
        self._images: Tensor | None = None
        if resident:
            px = shards.image_px
            self._images = torch.empty((len(shards), px, px, 3), dtype=torch.uint8, device=device)
            batches = shards.batches(np.arange(len(shards)), CHUNK)
            for part, batch in zip(torch.split(self._images, CHUNK), batches, strict=True):
                part.copy_(torch.from_numpy(batch))

    def take(self, rows: Tensor) -> Tensor:
        """Return the images at `rows`, int64 `(V,)` in host memory, as uint8 `(V, H, W, 3)` on the device."""
        if self._images is not None:
            return self._images[to_device(rows, self._device)]
        return to_device(torch.from_numpy(self._shards.images(rows.numpy())), self._device)
