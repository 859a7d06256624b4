import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from isic_siamese.devices import be_deterministic, keep_every_digit, map_batches, ran_out_of_memory

CPU = torch.device("cpu")


@pytest.fixture
def cores() -> Iterator[int]:
    """More threads than the one of other tests."""
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(1)


def test_each_core_has_a_batch_of_its_own_and_few_are_taken_ahead(cores: int) -> None:
    taken, workers = [], set()

    def batches() -> Iterator[int]:
        for number in range(20):
            taken.append(threading.current_thread())
            yield number

    together = threading.Barrier(cores)

    def work(number: int) -> Tensor:
        if number < cores:
            together.wait(timeout=60)  # so that as many are at work at once
        workers.add((threading.current_thread(), torch.get_num_threads()))
        return torch.tensor(number)

    answers = []
    for answer in map_batches(work, batches(), CPU):
        answers.append(int(answer))
        assert len(taken) <= len(answers) + cores
    assert answers == list(range(20)) and set(taken) == {threading.current_thread()}
    assert len(workers) == cores and {threads for _, threads in workers} == {1}
    assert torch.get_num_threads() == cores
    with ThreadPoolExecutor(1) as later:  # a thread that starts now has all cores, too
        assert later.submit(torch.get_num_threads).result() == cores
    assert not any(thread.is_alive() for thread, _ in workers)


def test_a_batch_that_fails_ends_the_others_and_gives_the_cores_back(cores: int) -> None:
    done = []

    def work(number: int) -> Tensor:
        if number == 4:
            raise MemoryError
        done.append(number)
        return torch.tensor(number)

    with pytest.raises(MemoryError):
        list(map_batches(work, range(1000), CPU))
    assert len(done) <= 4 + 2 * cores and torch.get_num_threads() == cores


@pytest.mark.parametrize("threads", [1, 3])
def test_gradients_and_autocast_are_as_the_caller_has_them(threads: int) -> None:
    def work(_: int) -> Tensor:
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        return torch.tensor([*modes, torch.get_autocast_dtype("cpu") == torch.bfloat16])

    def modes() -> list[int]:
        return [int(mode) for mode in next(map_batches(work, range(1), CPU))]

    torch.set_num_threads(threads)
    try:
        assert modes()[:3] == [0, 1, 0]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert modes() == [0, 0, 1, 1]
        with torch.inference_mode():
            assert modes()[:3] == [1, 0, 0]
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("device", "threads"), [("meta", 3), ("cpu", 1)])
def test_an_accelerator_and_a_single_core_take_batches_in_the_calling_thread(device: str, threads: int) -> None:
    workers = []

    def work(number: int) -> Tensor:
        workers.append(threading.current_thread())
        return torch.tensor(number)

    torch.set_num_threads(threads)
    try:
        assert [int(answer) for answer in map_batches(work, range(3), torch.device(device))] == [0, 1, 2]
        assert set(workers) == {threading.current_thread()} and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_what_torch_says(error: Exception, expected: bool) -> None:
    assert ran_out_of_memory(error) is expected


def test_what_may_come_to_other_bits_is_refused_on_cuda_and_told_on_apple(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for device, warns in (("cuda", False), ("mps", True)):
            torch.use_deterministic_algorithms(False)
            be_deterministic(torch.device(device))
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled() is warns
            assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_cuda_keeps_all_digits_of_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    keep_every_digit()
    assert not torch.backends.cudnn.allow_tf32 and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
