"""The folder `data/raw`: links to the five files of the release that is in use."""

import filecmp
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.files import write_csv
from isic_siamese.verification import has_verified_twin, left_out, release_paths

log = logging.getLogger(__name__)


def find_release(named: str) -> Path:
    """Return the folder that the parameter `release` names, absolute; a relative one starts from the current folder.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(os.path.realpath(expand_home(named)))  # that of pathlib fails where links lead in a circle
    if not folder.is_dir():
        raise DataError(
            f"params.yaml: release: {named!r} names no folder ({folder} is none); "
            "wanted demo, isic2020 or a folder that holds a release"
        )
    return folder


def expand_home(named: str) -> Path:
    """Return the path `named`, with the home folder for `~`; a user who is not known stays as written."""
    return Path(os.path.expanduser(named))  # noqa: PTH111 - the one of pathlib fails where there is no such user


def only_copies(raw: Path, record: Path) -> list[Path]:
    """Return which of the five files in `raw` may be nowhere else: no link, nor a copy of one that `record` knows.

    To be asked before a release is drawn or fetched anew: a link to a file that is replaced becomes the only one.

    Raises:
        DataError: `raw` is a file.
    """
    if raw.is_file():
        raise DataError(f"{raw}: a file, wanted a folder or nothing; move it out of there")
    five = [path for path in _visible(raw) if path.name in release.FILES]
    return [path for path in five if not path.is_file() or _may_be_the_only_one(path, record)]


def _visible(raw: Path) -> list[Path]:
    return sorted(path for path in raw.glob("[!.]*") if not path.is_symlink())


def _may_be_the_only_one(path: Path, record: Path) -> bool:
    facts, n_bytes_of_nothing = path.stat(), len(release.EMPTY.get(path.name, b""))
    return facts.st_size > n_bytes_of_nothing and facts.st_nlink == 1 and not has_verified_twin(path, record)


def link_release(folder: Path, raw: Path, store: Path, only: Sequence[Path] = ()) -> None:
    """Make `raw` hold exactly the five files of the verified release in `folder`: hard links, or else copies.

    What the release leaves out is there without content.
    The whole folder changes at once, so no moment finds two releases mixed. What `raw` held before goes, being links;
    but the `only` copies, and what has another name, are moved into a new folder of `store`. Where `raw` is a symlink,
    it stays one.

    Raises:
        DataError: `folder` is inside `raw`, or a file cannot be linked or copied, for want of space say.
    """
    raw = raw.resolve()
    if raw in folder.resolve().parents:
        raise DataError(f"params.yaml: release: {folder} is inside {raw}, which is made anew; move it out of there")
    new, old = raw.with_name(f".{raw.name}.new"), raw.with_name(f".{raw.name}.old")
    _delete(new)
    new.mkdir(parents=True)
    try:
        _fill(new, folder, store)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)  # or a full disk would stay full
        raise
    others = [path for path in _visible(raw) if path.name not in release.FILES]
    _set_aside([*(path for path in only if not _holds(new / path.name, path)), *others], store)
    _delete(old)
    if raw.exists():
        raw.rename(old)
    new.rename(raw)
    _delete(old)


def _delete(folder: Path) -> None:
    """Delete `folder`, if it is there, even one that was made read-only."""
    if folder.exists():
        with suppress(PermissionError):  # it may be another user's, and yet writable
            folder.chmod(0o700)
        shutil.rmtree(folder)


def _fill(new: Path, folder: Path, store: Path) -> None:
    absent = left_out(folder)
    for name, source in release_paths(folder).items():
        if name in absent:
            (new / name).write_bytes(release.EMPTY[name])
        elif source.name == release.TRUTH_V1_CSV:
            write_csv(store / name, release.read_truth(source))
            link_or_copy(store / name, new / name)  # so that it is never taken for the only copy
        else:
            link_or_copy(source, new / name)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `target` to `source`, or copy it where that cannot be, such as across disks.

    Raises:
        DataError: neither can be; a part may be there.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:
        try:
            log.info("copying %s (%.1f GB)", source, source.stat().st_size / 1e9)
            shutil.copy2(source, target)
        except OSError as error:
            raise DataError(f"{target}: cannot copy {source}: {error.strerror}; mend that and run again") from None


def _holds(new: Path, old: Path) -> bool:
    return new.is_file() and old.is_file() and (new.samefile(old) or filecmp.cmp(new, old, shallow=False))


def _set_aside(paths: Sequence[Path], store: Path) -> None:
    if paths:
        store.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="found-", dir=store))
        for path in paths:
            shutil.move(path, aside / path.name)
        log.warning("what may be the only copy is kept: moved %s to %s", release.some([p.name for p in paths]), aside)
