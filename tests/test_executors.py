"""Tests of a Dask cluster at work: the same bytes, a worker that dies, and kind errors for a cluster that is not there.

Scheduler and workers are processes of their own, as on a real cluster. Within pytest's process, as in a `LocalCluster`,
each warning of theirs would be an error: port 8787 in use by another cluster stopped two runs at a time so.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import distributed
import pytest

from isic_siamese import executors
from isic_siamese.errors import ParamsError
from isic_siamese.executors import DASK_ADDRESS, start_executor
from isic_siamese.shard_writer import ImageSet, write_shards
from tests.jpeg_zips import digests, draw_jpeg, draw_members, image_set, params, write_zip

ROOT = Path(__file__).parents[1]
# Work that no worker is there for fails after a while: Dask itself would wait for ever.
SETTINGS = {"DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "60s", "PYTHONPATH": str(ROOT / "src")}


@contextmanager
def start_dask(command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    run = [sys.executable, "-m", f"distributed.cli.dask_{command}", "--dashboard-address", "127.0.0.1:0", *options]
    with subprocess.Popen(run, env=os.environ | SETTINGS, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler without workers."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    with start_dask("scheduler", *options) as process:
        while not (file.exists() and file.read_text().endswith("}")):
            assert process.poll() is None
            time.sleep(0.05)
        with distributed.Client(scheduler_file=str(file)) as client:
            yield client.scheduler.address


@pytest.fixture
def workers(scheduler: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two of them."""
    options = [scheduler, "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--memory-limit", "0"]
    with ExitStack() as stack:
        processes = [stack.enter_context(start_dask("worker", *options)) for _ in range(2)]
        with distributed.Client(scheduler) as client:
            client.wait_for_workers(2, timeout=60)
        yield processes


def test_a_cluster_without_workers_says_how_to_start_some(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK_ADDRESS, scheduler)
    monkeypatch.setattr(executors, "WORKER_WAIT_S", 0.2)
    with pytest.raises(ParamsError, match=r"no worker in 0\.2 s; start some with 'dask worker'"), start_executor(1):
        pass


@pytest.mark.usefixtures("workers")
def test_the_workers_of_a_dask_cluster_give_the_same_bytes(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_zip(tmp_path / "images.zip", draw_members())
    [sizes] = write_shards([image_set(tmp_path / "here", source)], tmp_path / "work", params())
    monkeypatch.setenv(DASK_ADDRESS, scheduler)
    [others] = write_shards([image_set(tmp_path / "there", source)], tmp_path / "work", params())
    assert digests(tmp_path / "here/train") == digests(tmp_path / "there/train")
    assert sizes.equals(others)
    with distributed.Client(scheduler) as client:
        assert all(client.run(lambda: "isic_siamese.shard_writer" in sys.modules).values())


@pytest.mark.usefixtures("workers")
def test_workers_that_run_in_another_folder_find_the_files(
    tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DASK_ADDRESS, scheduler)
    source = write_zip(Path("images.zip"), draw_members())
    write_shards([image_set(Path("here"), source)], Path("work"), params())
    assert len(list(Path("here/train").iterdir())) == 6 and not Path("work").exists()


def test_the_other_worker_does_the_work_of_one_that_dies(
    tmp_path: Path, scheduler: str, workers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = draw_jpeg(0, 1600, 1200)
    source = write_zip(tmp_path / "images.zip", {"0.jpg": jpeg})
    here, there = (ImageSet(source, ["0.jpg"] * 120, tmp_path / place / "train") for place in ("here", "there"))
    write_shards([here], tmp_path / "work", params())
    monkeypatch.setenv(DASK_ADDRESS, scheduler)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(write_shards, [there], tmp_path / "work", params())
        while not list(tmp_path.glob("work/train/[!.]*.npy")):
            assert not run.done()
            time.sleep(0.002)
        workers[0].kill()
        run.result()
    assert digests(tmp_path / "here/train") == digests(tmp_path / "there/train")


@pytest.fixture(autouse=True)
def _no_client_of_an_earlier_test() -> None:
    """Collect clients that did not start: one that is collected while the next starts waits for it, for ever."""
    gc.collect()  # Client.__del__ and LoopRunner.start of distributed take the same lock


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK_ADDRESS, "tcp://127.0.0.1:1")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(ParamsError, match=r"tcp://127\.0\.0\.1:1: no scheduler answers: .*; start one with 'dask sch"),
        start_executor(1),
    ):
        pass


@pytest.mark.parametrize("address", ["garbage", "tcp://", "tcp://head:port", "http://127.0.0.1:8799", "tls://head:1"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK_ADDRESS, address)
    problem = f"{DASK_ADDRESS}={address}: cannot be used: .*; wanted an address such as tcp://head:8786"
    with pytest.raises(ParamsError, match=problem), start_executor(1):
        pass


def test_a_scheduler_without_dask_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK_ADDRESS, "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParamsError, match="pip install distributed"), start_executor(1):
        pass
