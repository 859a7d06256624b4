"""The official release, from the mirrors that have it."""

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpcore
import httpx
from tqdm import tqdm

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.fetch import Fetcher, GivenUpError, Part, RefusedError, without_password
from isic_siamese.files import forget_temporaries, replacing
from isic_siamese.raw import expand_home, link_or_copy
from isic_siamese.release import refuse
from isic_siamese.verification import missing_files

MIRRORS = (
    "https://isic-archive.s3.amazonaws.com/challenges/2020/",
    "https://isic-challenge-data.s3.amazonaws.com/2020/",  # older, still up
)
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before each new try
STALL = 30.0  # seconds without a byte until the line counts as cut
READ_BYTES = 512 << 10  # taken from a socket at once; httpcore's 64 KiB cost twice the CPU (benchmarks/download.py)
ROUGH_BYTES = {release.TRAIN_ZIP: 23 * 10**9, release.TEST_ZIP: 67 * 10**8}  # for a server that does not say
GO_ON = (
    "mend that, or set ISIC_MIRROR to a URL or folder that has the files; 'dvc repro download' then goes on from there"
)
NOTICE = """\
The ISIC 2020 release is licensed CC-BY-NC 4.0 (not for commercial use): https://creativecommons.org/licenses/by-nc/4.0/
Cite with whatever you publish from it:
  International Skin Imaging Collaboration. SIIM-ISIC 2020 Challenge Dataset (2020). https://doi.org/10.34970/2020-ds01
  Rotemberg, V. et al. A patient-centric dataset of images and metadata for identifying melanomas using clinical
  context. Sci Data 8, 34 (2021). https://doi.org/10.1038/s41597-021-00815-z"""

log = logging.getLogger(__name__)


def list_mirrors() -> list[str]:
    """Return the base URLs and folders to try, in order: first `ISIC_MIRROR`, if that variable is set.

    Raises:
        DataError: it names neither a URL nor a folder.
    """
    own = os.environ.get("ISIC_MIRROR", "")
    if own and not _is_url(own) and not expand_home(own).is_dir():
        raise DataError(
            f"ISIC_MIRROR: {without_password(own)!r} is neither a URL (http://, https://) nor a folder; "
            "correct it or unset it"
        )
    return [own, *MIRRORS] if own else list(MIRRORS)


def fetch_release(store: Path, mirrors: Sequence[str], pauses: Sequence[float] = PAUSES, stall: float = STALL) -> None:
    """Fetch into `store` what it lacks of the five files, all at once; what was fetched in part is continued.

    Args:
        store: files there are kept as they are, right or wrong: verifying them is another's task.
        mirrors: base URLs and folders, tried in this order for each file.
        pauses: seconds before each new try at a mirror that gives no more bytes.
        stall: seconds without a byte after which a line counts as cut.

    Raises:
        DataError: a file cannot be had, or the disk has no room; says how to go on.
    """
    missing = missing_files(store)
    if not missing:
        return
    if not store.exists():
        log.info(NOTICE)
    store.mkdir(parents=True, exist_ok=True)
    with _client(stall) as client, ThreadPoolExecutor(len(missing)) as pool:
        fetcher = Fetcher(client, pauses, Event())
        try:
            to_come = list(pool.map(lambda name: _n_bytes_to_come(client, mirrors, store / name), missing))
            require_space(store, sum(to_come))
            answers = pool.map(lambda job: _fetch_file(fetcher, mirrors, store / job[1], job[0]), enumerate(missing))
            failed = [answer for answer in answers if answer]
        finally:
            fetcher.stop.set()  # or the pool would see 30 GB through after Ctrl-C
    if failed:
        refuse(store, [f"{len(failed)} of 5 files could not be fetched; what came of them is kept", *failed], GO_ON)


def require_space(folder: Path, n_bytes: int) -> None:
    """Refuse to start what the disk of `folder` cannot hold.

    Raises:
        DataError: with the bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DataError(
            f"{folder}: {n_bytes / 1e9:,.1f} GB are still to come, but only {free / 1e9:,.1f} GB are free on that "
            "disk; make room, or work from a clone on a larger disk, and run 'dvc repro download' again"
        )


def _fetch_file(fetcher: Fetcher, mirrors: Sequence[str], path: Path, position: int) -> str:
    """Fetch one file from the first mirror that gives it; return what went wrong everywhere, "" if it worked."""
    problems = []
    with tqdm(desc=path.name, position=position, unit="B", unit_scale=True, unit_divisor=1000) as bar:
        for mirror in mirrors:
            try:
                _fetch_from(fetcher, mirror, path, bar)
                return ""
            except (RefusedError, GivenUpError) as error:
                problems.append(without_password(str(error)))
            except OSError as error:
                return f"{Part(path).path}: {error.strerror}; {Part(path).n_bytes():,} bytes so far"
    log.warning("%s: no mirror gives it", path.name)
    return f"{path.name}: {'; '.join(problems)}"


def _fetch_from(fetcher: Fetcher, mirror: str, path: Path, bar: "tqdm[Any]") -> None:
    """Fetch one file from one mirror, which may have the older ground truth only."""
    problems = []
    for name in (path.name, release.TRUTH_V1_CSV) if path.name == release.TRUTH_CSV else (path.name,):
        try:
            if _is_url(mirror):
                return fetcher.fetch(f"{mirror.rstrip('/')}/{name}", path.with_name(name), bar)
            return _link(expand_home(mirror) / name, path.with_name(name))
        except RefusedError as error:
            problems.append(str(error))
    raise RefusedError("; ".join(problems))


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise RefusedError(f"{source}: no such file")
    forget_temporaries(target.parent, target.name)  # of a copy that was killed, up to 23 GB
    with replacing(target) as temporary:
        link_or_copy(source, temporary)


def _n_bytes_to_come(client: httpx.Client, mirrors: Sequence[str], path: Path) -> int:
    """Return how many bytes of `path` the disk must still take, as the first mirror that knows the file has it."""
    held = Part(path).n_bytes()
    for mirror in mirrors:
        if not _is_url(mirror):
            source = expand_home(mirror) / path.name
            if source.is_file():
                return 0 if source.stat().st_dev == path.parent.stat().st_dev else source.stat().st_size
            continue
        try:
            answer = client.head(f"{mirror.rstrip('/')}/{path.name}", headers={"Accept-Encoding": "identity"})
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):  # the last: no host can have that name
            continue
        if answer.status_code == 200 and answer.headers.get("Content-Length", "").isdecimal():
            return max(0, int(answer.headers["Content-Length"]) - held)
    return max(0, ROUGH_BYTES.get(path.name, 0) - held)


def _is_url(mirror: str) -> bool:
    return mirror.lower().startswith(("http://", "https://"))


def _client(stall: float) -> httpx.Client:
    """Return a client that follows redirects and the proxy variables (HTTPS_PROXY, NO_PROXY and so on).

    Raises:
        DataError: a proxy variable makes no sense.
    """
    httpcore.HTTP11Connection.READ_NUM_BYTES = READ_BYTES
    try:
        return httpx.Client(follow_redirects=True, timeout=stall)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise DataError(f"the proxy variables of the environment (HTTPS_PROXY, ALL_PROXY ...): {error}") from None
