"""Who does the work: the threads of this process, or the workers of a Dask cluster that the environment names."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module

from isic_siamese.errors import ParamsError

DASK_ADDRESS = "DASK_SCHEDULER_ADDRESS"  # names a Dask scheduler, such as tcp://head:8786, whose workers do the work
WORKER_WAIT_S = 300  # for the first worker; a queue of a cluster may take minutes, and Dask itself waits for ever


@contextmanager
def start_executor(workers: int) -> Iterator[Executor]:
    """Yield `workers` threads of this process or, with `DASK_SCHEDULER_ADDRESS` set, the workers of that cluster.

    A cluster that loses all its workers later is waited for, as long as the `no-workers-timeout` of its scheduler says.

    Raises:
        ParamsError: Dask is not installed, the address is none, the scheduler does not answer, or it has no worker in
            `WORKER_WAIT_S`.
    """
    address = os.environ.get(DASK_ADDRESS)
    if address:
        with _start_dask(address) as executor:
            yield executor
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C waits for the tasks begun, not for all


@contextmanager
def _start_dask(address: str) -> Iterator[Executor]:
    where = f"{DASK_ADDRESS}={address}"
    try:
        distributed = import_module("distributed")
    except ModuleNotFoundError:
        raise ParamsError(f"{where}, but Dask is not there; run 'pip install distributed'") from None
    try:
        client = distributed.Client(address)
    except OSError as error:
        raise ParamsError(f"{where}: no scheduler answers: {error}; start one with 'dask scheduler'") from None
    except (ValueError, TypeError) as error:  # the latter: tls:// without certificates
        raise ParamsError(f"{where}: cannot be used: {error}; wanted an address such as tcp://head:8786") from None
    with client:
        try:
            client.submit(int).result(WORKER_WAIT_S)  # a task, as some clusters start no worker before there is one
        except TimeoutError:
            raise ParamsError(f"{where}: no worker in {WORKER_WAIT_S} s; start some with 'dask worker'") from None
        executor = client.get_executor(pure=False)  # a task writes a file, which an earlier result does not bring back
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)  # so that Ctrl-C cancels the rest
