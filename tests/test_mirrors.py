"""The five files from mirrors: which one, in what order, with what said, and through a hail of kills."""

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from isic_siamese import release
from isic_siamese.errors import DataError
from isic_siamese.mirrors import MIRRORS, NOTICE, fetch_release, list_mirrors, require_space
from isic_siamese.verification import verify_release
from tests.mirror_server import MirrorServer, serving
from tests.release_folder import contents, write_release, write_truth_v1

PAUSES = (0.001, 0.001)
GO_ON = (
    "mend that, or set ISIC_MIRROR to a URL or folder that has the files; 'dvc repro download' then goes on from there"
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "ISIC_MIRROR"]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_release(tmp_path / "origin")


@pytest.fixture
def server(folder: Path) -> Iterator[MirrorServer]:
    with serving({f"/2020/{path.name}": path.read_bytes() for path in folder.iterdir()}) as mirror:
        yield mirror


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def fetch(store: Path, *mirrors: str) -> None:
    fetch_release(store, mirrors, PAUSES, stall=1)


@pytest.mark.parametrize("slash", ["", "/"])
def test_all_five_files_come_from_the_first_mirror(
    server: MirrorServer, folder: Path, store: Path, slash: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(store, f"{server.url}/2020{slash}", f"{server.url}/never")
    assert contents(store) == contents(folder)
    assert sorted(asked[0] for asked in server.asked) == sorted(f"/2020/{name}" for name in release.FILES)
    printed = capfd.readouterr().err
    assert all(name in printed for name in release.FILES), "a bar a file"


def test_licence_and_citation_are_printed_at_the_first_real_download_only(
    server: MirrorServer, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetch(store, f"{server.url}/2020")
    assert NOTICE in caplog.messages
    assert all(part in NOTICE for part in ("CC-BY-NC 4.0", "10.34970/2020-ds01", "10.1038/s41597-021-00815-z"))
    caplog.clear()
    (store / release.TEST_CSV).unlink()
    fetch(store, f"{server.url}/2020")
    assert NOTICE not in caplog.messages


def test_a_whole_store_asks_nobody(store: Path, server: MirrorServer) -> None:
    write_release(store)
    fetch(store, f"{server.url}/2020")
    write_truth_v1(store)
    fetch(store, f"{server.url}/2020")
    assert server.asked == []


def test_a_file_that_one_mirror_lacks_comes_from_the_next(folder: Path, store: Path, server: MirrorServer) -> None:
    del server.files[f"/2020/{release.TEST_ZIP}"]
    server.files[f"/older/{release.TEST_ZIP}"] = (folder / release.TEST_ZIP).read_bytes()
    fetch(store, f"{server.url}/2020", f"{server.url}/older")
    assert contents(store) == contents(folder)


def test_a_url_in_capitals_is_one(
    folder: Path, store: Path, server: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url.replace('http', 'HTTP')}/2020"
    monkeypatch.setenv("ISIC_MIRROR", url)
    fetch(store, list_mirrors()[0])
    assert contents(store) == contents(folder)


@pytest.mark.parametrize("trouble", ["404", "503", "redirect"])
@pytest.mark.parametrize("password", ["secret", "se@cret", "secret@"])
def test_a_password_is_in_no_message(store: Path, server: MirrorServer, trouble: str, password: str) -> None:
    url = f"{server.url}/2020".replace("//", f"//me:{password}@")
    server.plan.extend([trouble] * 200)
    with pytest.raises(DataError) as failure:
        fetch(store, url)
    assert "cret" not in str(failure.value) and "http://***@127.0.0.1" in str(failure.value)


def test_a_password_is_in_no_file_and_what_broke_off_is_continued(
    folder: Path, store: Path, server: MirrorServer
) -> None:
    url = f"{server.url}/2020".replace("//", "//me:secret@")
    server.plan.extend(["cut"] * 200)
    with pytest.raises(DataError):
        fetch_release(store, [url], [], stall=1)
    assert not any(b"secret" in content for content in contents(store).values())
    server.plan.clear()
    server.asked.clear()
    fetch(store, url)
    assert contents(store) == contents(folder)
    assert {validator for _, _, validator in server.asked} == {'"first"'}


def test_a_password_of_a_mirror_that_is_none_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISIC_MIRROR", "ftp://me:sec/ret@host/x")
    with pytest.raises(DataError, match=r"^ISIC_MIRROR: 'ftp://\*\*\*@host/x' is neither"):
        list_mirrors()


def test_a_mirror_that_is_down_is_passed_over(folder: Path, store: Path, server: MirrorServer) -> None:
    fetch(store, "http://127.0.0.1:9", f"{server.url}/2020")
    assert contents(store) == contents(folder)


def test_the_older_ground_truth_does_where_the_newer_is_not(folder: Path, store: Path, tmp_path: Path) -> None:
    write_truth_v1(folder)
    with serving({f"/{name}": body for name, body in contents(folder).items()}) as older:
        fetch(store, older.url)
    assert contents(store) == contents(folder)
    verify_release(store, tmp_path / "verified.json")


def test_a_folder_on_this_disk_is_linked_and_not_copied(folder: Path, store: Path) -> None:
    store.mkdir(parents=True)
    (store / f".123.{release.TRAIN_ZIP}").write_bytes(b"PK of a copy that was killed")
    fetch(store, str(folder), "http://127.0.0.1:9")
    assert sorted(path.name for path in store.iterdir()) == sorted(release.FILES)
    assert all((store / name).samefile(folder / name) for name in release.FILES)


def test_what_a_folder_lacks_comes_from_the_next_mirror(folder: Path, store: Path, server: MirrorServer) -> None:
    (folder / release.TRAIN_ZIP).unlink()
    fetch(store, str(folder), f"{server.url}/2020")
    assert [asked[0] for asked in server.asked] == [f"/2020/{release.TRAIN_ZIP}"]


def test_a_failure_names_file_url_cause_bytes_and_the_command(store: Path, server: MirrorServer) -> None:
    url = f"{server.url}/2020/{release.TRAIN_ZIP}"
    write_release(store)
    (store / release.TRAIN_ZIP).unlink()
    n = len(server.files[f"/2020/{release.TRAIN_ZIP}"])
    server.plan.extend(["cut", "503", "503", "503"])
    with pytest.raises(DataError) as failure:
        fetch(store, f"{server.url}/2020", f"{server.url}/older")
    assert str(failure.value).splitlines() == [
        f"{store}: 1 of 5 files could not be fetched; what came of them is kept",
        f"{release.TRAIN_ZIP}: {url}: HTTP 503; {n // 2:,} bytes so far; {url.replace('2020/', 'older/', 1)}: HTTP 404",
        GO_ON,
    ]
    fetch(store, f"{server.url}/2020")
    assert server.asked[-1][1] == f"bytes={n // 2}-"


def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, store: Path, server: MirrorServer
) -> None:
    with pytest.raises(DataError) as refusal:
        require_space(tmp_path, 2**60)
    assert str(refusal.value).startswith(f"{tmp_path}: 1,152,921,504.6 GB are still to come, but only ")
    assert " GB are free on that disk; make room, or work from a clone on a larger disk" in str(refusal.value)

    server.claimed = 2**60
    with pytest.raises(DataError, match=r"store: 5,764,607,523\.0 GB are still to come, but only "):
        fetch(store, f"{server.url}/2020")
    assert server.asked == []


def test_a_proxy_is_asked_where_the_variables_name_one(
    folder: Path, store: Path, server: MirrorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    fetch(store, "http://mirror.invalid/2020")
    assert contents(store) == contents(folder)
    assert {asked[0].rpartition("/")[0] for asked in server.asked} == {"http://mirror.invalid/2020"}


def test_a_senseless_proxy_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://proxy")
    with pytest.raises(DataError, match=r"^the proxy variables .*HTTPS_PROXY.*gopher"):
        fetch(store, "http://127.0.0.1:9")


def test_the_own_mirror_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_mirrors() == list(MIRRORS)
    for own in ("https://mirror.invalid/isic", str(folder)):
        monkeypatch.setenv("ISIC_MIRROR", own)
        assert list_mirrors() == [own, *MIRRORS]
    monkeypatch.setenv("ISIC_MIRROR", "ftp://mirror.invalid")
    with pytest.raises(DataError) as refusal:
        list_mirrors()
    assert str(refusal.value) == (
        "ISIC_MIRROR: 'ftp://mirror.invalid' is neither a URL (http://, https://) nor a folder; correct it or unset it"
    )
    monkeypatch.setenv("ISIC_MIRROR", "~nobody-of-that-name/isic")
    with pytest.raises(DataError, match=r"^ISIC_MIRROR: '~nobody-of-that-name/isic' is neither"):
        list_mirrors()


def test_a_host_of_an_impossible_name_is_a_mirror_that_has_nothing(store: Path) -> None:
    with pytest.raises(DataError, match=r"5 of 5 files could not be fetched(.|\n)*http://xn--/ISIC_2020"):
        fetch(store, "http://xn--/")


def fetch_until_killed(store: Path, url: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal; a job in the background ignores it
    fetch_release(store, [url], pauses=[0.01] * 3, stall=5)


def survive_kills(folder: Path, store: Path, seed: int, n_kills: int) -> int:
    """Fetch the release in `folder` with a process that is killed `n_kills` times; return how often it was resumed."""
    rng = random.Random(seed)
    context = get_context("forkserver")  # a new process within milliseconds, and no fork of one with threads
    context.set_forkserver_preload([__name__])
    with serving({f"/{path.name}": path.read_bytes() for path in folder.iterdir()}) as server:
        server.seconds_per_chunk = 0.02
        for _ in range(n_kills):
            n_asked = len(server.asked)
            server.plan.extend(rng.choices(["good", "cut", "503"], k=2))
            process = context.Process(target=fetch_until_killed, args=(store, server.url))
            process.start()
            while len(server.asked) == n_asked and process.is_alive():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.join()
        server.seconds_per_chunk = 0
        server.plan.clear()
        fetch_until_killed(store, server.url)
        return len([asked for asked in server.asked if asked[1]])


def test_a_download_killed_at_random_points_ends_in_the_right_bytes(folder: Path, store: Path) -> None:
    (folder / release.TRAIN_ZIP).write_bytes(b"PK" + random.Random(1).randbytes(6_000_000))
    n_resumed = survive_kills(folder, store, seed=1, n_kills=5)
    assert contents(store) == contents(folder)
    assert n_resumed >= 3


def test_an_interrupt_does_not_wait_for_the_whole_release(folder: Path, store: Path) -> None:
    with serving({f"/{path.name}": path.read_bytes() * 1_000 for path in folder.iterdir()}) as server:
        server.seconds_per_chunk = 0.5
        process = get_context("forkserver").Process(target=fetch_until_killed, args=(store, server.url))
        process.start()
        while len(server.asked) < len(release.FILES):
            time.sleep(0.001)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(20)
        assert process.exitcode == 1
    assert not (store / release.TRAIN_ZIP).exists()
