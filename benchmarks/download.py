"""Fetching beside curl: the same release of 1.2 GB, the same local server, in turns; and our peak memory.

Run `python -m benchmarks.download`. Ours is timed from the first request to the last file in its place; then it
verifies the release too, so that the peak memory is that of the whole stage. curl runs with --parallel.
"""

import argparse
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from isic_siamese import release
from isic_siamese.errors import run_command
from isic_siamese.mirrors import fetch_release
from isic_siamese.verification import verify_release

MEMBER_BYTES = 700_000  # about the mean of the official JPEGs


def write_stand_in(folder: Path, n_bytes: int) -> int:
    """Write a release of about `n_bytes` with noise for images, four fifths of it for training; return its bytes."""
    names = [f"ISIC_{i:07}" for i in range(n_bytes // MEMBER_BYTES)]
    n_train = len(names) * 4 // 5
    rows = [[name, "IP_1", "", "", "", "", "unknown", "benign", "0"] for name in names[:n_train]]
    tables: dict[str, list[Sequence[str]]] = {
        release.TRUTH_CSV: [release.TRUTH_COLUMNS, *rows],
        release.DUPLICATES_CSV: [release.DUPLICATES_COLUMNS],
        release.TEST_CSV: [release.TEST_COLUMNS, *([name, "IP_2", "", "", ""] for name in names[n_train:])],
    }
    for name, lines in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    noise = os.urandom(MEMBER_BYTES)
    for path, inside, members in (
        (release.TRAIN_ZIP, release.TRAIN_FOLDER, names[:n_train]),
        (release.TEST_ZIP, release.TEST_FOLDER, names[n_train:]),
    ):
        with zipfile.ZipFile(folder / path, "w") as archive:
            for name in members:
                archive.writestr(f"{inside}{name}.jpg", noise)
    return sum(path.stat().st_size for path in folder.iterdir())


def serve(folder: Path, port: Connection) -> None:
    """Serve `folder` with sendfile, which takes as little as possible from the cores that the clients need."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str((folder / self.path[1:]).stat().st_size))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with (folder / self.path[1:]).open("rb") as file:
                self.connection.sendfile(file)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port.send(server.server_address[1])
        server.serve_forever()


def fetch_with_ours(url: str, store: Path) -> tuple[float, float]:
    """Fetch and verify in a process of its own; return the seconds of fetching and the peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.download", "--fetch", url, "--into", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    seconds = float(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return seconds, usage.ru_maxrss / (1000 if sys.platform == "linux" else 1e6)


def fetch_with_curl(url: str, store: Path) -> float:
    """Fetch with curl, all files at once; return the seconds."""
    store.mkdir()
    urls = [argument for name in release.FILES for argument in ("-O", f"{url}/{name}")]
    started = time.perf_counter()
    subprocess.run(
        ["curl", "--silent", "--fail", "--parallel", *urls], check=True, cwd=store, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def compare(gigabytes: float, n_runs: int) -> None:
    """Print both rates, medians of interleaved runs, and the peak memory."""
    rates: dict[str, list[float]] = {"ours": [], "curl": []}
    peaks = []
    with tempfile.TemporaryDirectory() as temporary:
        origin, store = Path(temporary) / "origin", Path(temporary) / "store"
        origin.mkdir()
        megabytes = write_stand_in(origin, int(gigabytes * 1e9)) / 1e6
        port, child_end = get_context("spawn").Pipe()
        server = get_context("spawn").Process(target=serve, args=(origin, child_end), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{port.recv()}"
        for _ in range(n_runs):
            rates["curl"].append(megabytes / fetch_with_curl(url, store))
            shutil.rmtree(store)
            seconds, peak = fetch_with_ours(url, store)
            shutil.rmtree(store)
            rates["ours"].append(megabytes / seconds)
            peaks.append(peak)
        server.kill()
    ours, curl = (statistics.median(rates[name]) for name in ("ours", "curl"))
    write = sys.stdout.write
    write(f"release of {megabytes:,.0f} MB, n = {n_runs}, medians; {os.cpu_count()} cores, {platform.platform()}\n")
    write(f"ours  {ours:6.0f} MB/s  ({ours / curl:.0%} of curl)  httpx {httpx.__version__}\n")
    write(f"curl  {curl:6.0f} MB/s\n")
    write(f"peak memory of fetching and verifying: {max(peaks):.0f} MB\n")


def main() -> None:
    """Compare, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fetch", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.fetch:
        compare(arguments.gigabytes, arguments.runs)
        return
    started = time.perf_counter()
    fetch_release(arguments.into, [arguments.fetch])
    sys.stdout.write(f"{time.perf_counter() - started}\n")
    verify_release(arguments.into, arguments.into / "verified.json")


if __name__ == "__main__":
    run_command(main)
