"""Where the network runs, and what makes it run there fast and to the same bits each time."""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from isic_siamese.errors import TrainingError

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory")  # as torch has it on CUDA and on a CPU
M_ARENA_MAX = -8  # of glibc's malloc.h
MOST_KEPT = 2**25 - 2**16  # bytes; of larger blocks malloc of glibc keeps none that was freed

BatchT = TypeVar("BatchT")


def pick_device() -> torch.device:
    """Return the accelerator that is there: CUDA, then Apple's, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return what `device` is called, such as `NVIDIA H100 80GB HBM3`, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that the host or the device has no memory left."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


@contextmanager
def explaining_out_of_memory() -> Iterator[None]:
    """Raise a `TrainingError` that says what to change where memory runs out, on the host or the device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise TrainingError(
            f"training: out of memory on {pick_device()}: {error}; see what else is in it, or take a "
            "smaller train.encoder or fewer train.stages; where layers learn, lower pairs.views_per_block with "
            "pairs.pairs_per_block, or shards.image_px"
        ) from None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device` without making the host wait, as a copy from memory that is not pinned may."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def map_batches(work: Callable[[BatchT], Tensor], batches: Iterable[BatchT], device: torch.device) -> Iterator[Tensor]:
    """Yield what `work` makes of each batch, in their order; on a CPU each core has a batch of its own.

    Cores that share a batch wait for one another at each layer, and the last bits of what they come to depend on how
    many they are. The calling thread takes a batch when a core is about to be free. For `work`, which runs on `device`,
    gradients and autocast are on or off as for the caller.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1:
        yield from map(work, batches)
        return
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    autocast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def work_as_here(batch: BatchT) -> Tensor:  # these modes are a thread's
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients),
            torch.autocast("cpu", dtype, enabled=autocast),
        ):
            return work(batch)

    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    running: deque[Future[Tensor]] = deque()
    try:
        for batch in batches:
            running.append(pool.submit(work_as_here, batch))
            if len(running) > cores:
                yield running.popleft().result()
        for future in running:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # a worker's 1 is that of all threads to come


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator of `device` alone: to look for devices that are not there would take 0.1 ms of each step."""
    (torch if device.type == "cpu" else torch.get_device_module(device)).manual_seed(seed)


def make_blocks_cheap() -> None:
    """Spare the CPU most of what Linux does when a feature map is allocated."""
    # Tensors on huge pages, in 1/20 of the page faults. Torch reads this when it makes its first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # glibc keeps a freed block where one as large was freed before (mallopt(3), M_MMAP_THRESHOLD). Else it goes back
    # to the system after each layer, to be zeroed anew for the next. This one is never written to.
    torch.empty(MOST_KEPT, dtype=torch.uint8)


def share_one_heap() -> None:
    """Have the threads of `map_batches` take memory that training has freed, and not as much again; in glibc alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_ARENA_MAX, 1)


def keep_every_digit() -> None:
    """Have CUDA compute as exactly as a CPU does, and to the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product of matrices
    torch.backends.cudnn.allow_tf32 = False  # else convolutions keep 10 bits of a float32


def be_deterministic(device: torch.device) -> None:
    """Have torch refuse whatever may come to other bits the next time; where Apple's has no other way, warn."""
    torch.use_deterministic_algorithms(True, warn_only=device.type == "mps")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a check; see benchmarks
