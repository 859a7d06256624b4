"""Fetching against a real server that misbehaves."""

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import httpx
import pytest
from tqdm import tqdm

from isic_siamese.fetch import Fetcher, GivenUpError, Part, RefusedError
from tests.mirror_server import MirrorServer, serving

CONTENT = bytes(range(256)) * 2000
OTHER = CONTENT[::-1]
N = len(CONTENT)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[MirrorServer]:
    with serving({"/file": CONTENT, "/elsewhere/file": CONTENT, "/other": OTHER}) as mirror:
        yield mirror


def fetch(server: MirrorServer, folder: Path, n_pauses: int = 2, name: str = "file") -> bytes:
    # A second is long for a loaded machine, and short for the two tests that wait for it.
    with httpx.Client(follow_redirects=True, timeout=1) as client, tqdm(disable=True) as bar:
        fetcher = Fetcher(client, [0.001] * n_pauses, Event())
        fetcher.fetch(f"{server.url}/{name}", folder / "file", bar)
    assert not list(folder.glob("file.part*")), "nothing is left beside the file"
    return (folder / "file").read_bytes()


def ranges(server: MirrorServer) -> list[str]:
    return [asked[1] for asked in server.asked]


def test_a_file_arrives_whole(server: MirrorServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked == [("/file", "", "")]


@pytest.mark.parametrize("trouble", ["cut", "stall", "short range"])
def test_a_line_that_breaks_is_continued_where_it_broke(server: MirrorServer, tmp_path: Path, trouble: str) -> None:
    server.plan.extend(["cut", trouble])
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked == [
        ("/file", "", ""),
        ("/file", f"bytes={N // 2}-", '"first"'),
        ("/file", f"bytes={N * 3 // 4}-", '"first"'),
    ]


@pytest.mark.parametrize("trouble", ["500", "503", "429", "empty", "web page", "hidden web page"])
def test_a_passing_failure_costs_nothing_that_was_fetched(server: MirrorServer, tmp_path: Path, trouble: str) -> None:
    server.plan.extend([trouble, "cut", trouble])
    assert fetch(server, tmp_path) == CONTENT
    assert ranges(server) == ["", "", f"bytes={N // 2}-", f"bytes={N // 2}-"]


@pytest.mark.parametrize("trouble", ["ignore range", "too much", "unsatisfiable"])
def test_an_answer_that_does_not_continue_starts_the_file_over(
    server: MirrorServer, tmp_path: Path, trouble: str
) -> None:
    server.plan.extend(["cut", trouble])
    assert fetch(server, tmp_path) == CONTENT
    assert ranges(server) == ["", f"bytes={N // 2}-", ""][: len(server.asked)]


def test_an_answer_from_another_place_is_not_appended(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.extend(["cut", "wrong range"])
    assert fetch(server, tmp_path) == CONTENT
    assert ranges(server) == ["", f"bytes={N // 2}-", f"bytes={N // 2}-"]


@pytest.mark.parametrize("answer", ["good", "ignore if range"])
@pytest.mark.parametrize("content", [OTHER, OTHER[:-1000]], ids=["as long", "shorter"])
def test_a_file_that_changed_on_the_server_starts_over(
    server: MirrorServer, tmp_path: Path, answer: str, content: bytes
) -> None:
    server.plan.append("cut")
    with pytest.raises(GivenUpError):
        fetch(server, tmp_path, n_pauses=0)
    server.files["/file"], server.etag = content, '"second"'
    server.plan.append(answer)
    assert fetch(server, tmp_path) == content


def test_without_an_etag_the_date_tells_versions_apart(server: MirrorServer, tmp_path: Path) -> None:
    server.etag, server.date = 'W/"weak"', "Mon, 01 Jun 2020 00:00:00 GMT"
    server.plan.append("cut")
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1] == ("/file", f"bytes={N // 2}-", server.date)


@pytest.mark.parametrize("etag", ['"\xe4"', '"a\x7f"'])
def test_a_validator_that_no_request_can_carry_is_done_without(server: MirrorServer, tmp_path: Path, etag: str) -> None:
    server.etag = etag
    server.plan.append("cut")
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked[1] == ("/file", f"bytes={N // 2}-", "")


@pytest.mark.parametrize(
    "facts",
    [
        '{"url": "URL", "n_bytes": 512000, "validator": 7}',
        '{"url": "URL", "n_bytes": 512000, "validator": "\xe4"}',
        '{"url": "URL", "n_bytes": "many", "validator": ""}',
        "[]",
    ],
)
def test_a_damaged_memory_of_the_origin_starts_the_file_over(server: MirrorServer, tmp_path: Path, facts: str) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    (tmp_path / "file.part.json").write_text(facts.replace("URL", f"{server.url}/file"), encoding="utf-8")
    assert fetch(server, tmp_path) == CONTENT
    assert ranges(server) == [""]


@pytest.mark.parametrize("first", ["chunked", "cut chunked"])
def test_a_length_that_is_not_announced_is_found_out(server: MirrorServer, tmp_path: Path, first: str) -> None:
    server.plan.append(first)
    assert fetch(server, tmp_path) == CONTENT


def test_redirects_are_followed(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.append("redirect")
    assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (["404"], "/file: HTTP 404"),
        (["403"], "/file: HTTP 403"),
        (["compressed"], "/file: sent compressed, though not asked for"),
        (["without length"], "/file: sent without a length, so a cut would look like the end"),
        (["redirect"] * 30, "/file: Exceeded maximum allowed redirects."),
    ],
)
def test_a_refusal_is_not_asked_again(server: MirrorServer, tmp_path: Path, plan: list[str], message: str) -> None:
    server.plan.extend(plan)
    with pytest.raises(RefusedError) as refusal:
        fetch(server, tmp_path)
    assert str(refusal.value) == server.url + message


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(b'{"error": 1}', "no zip: it begins with b'{"), (b"  \n<!DOCTYPE html>", "a web page instead of the file")],
)
def test_a_message_in_the_place_of_a_zip_costs_nothing_that_was_fetched(
    answer: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "file.zip.part").write_bytes(b"PK half")
    with (
        serving({"/file.zip": answer}) as server,
        httpx.Client() as client,
        tqdm(disable=True) as bar,
        pytest.raises(GivenUpError, match=re.escape(problem)),
    ):
        Fetcher(client, [], Event()).fetch(f"{server.url}/file.zip", tmp_path / "file.zip", bar)
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip.part"]
    assert (tmp_path / "file.zip.part").read_bytes() == b"PK half"


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("503", "HTTP 503; 0 bytes so far"),
        ("stall", "timed out; 256,000 bytes so far"),
        ("web page", "a web page instead of the file (the sign-in page of a network?); 0 bytes so far"),
        ("empty", "empty answer; 0 bytes so far"),
        ("part unasked", "HTTP 206, as for a part, though the whole file was asked for; 0 bytes so far"),
    ],
)
def test_giving_up_tells_the_url_the_cause_and_the_bytes(
    server: MirrorServer, tmp_path: Path, trouble: str, message: str
) -> None:
    server.plan.extend([trouble] * 3)
    with pytest.raises(GivenUpError) as end:
        fetch(server, tmp_path, n_pauses=0 if trouble == "stall" else 2)
    assert len(server.asked) == (1 if trouble == "stall" else 3)
    assert str(end.value) == f"{server.url}/file: {message}"


def test_each_gain_gives_back_all_tries(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.extend(["cut", "503"] * 6)
    assert fetch(server, tmp_path, n_pauses=2) == CONTENT


def test_starting_over_is_no_gain(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.extend(["ignore range and cut"] * 20)
    with pytest.raises(GivenUpError, match="closed connection"):
        fetch(server, tmp_path, n_pauses=2)
    assert len(server.asked) == 3


def test_a_part_of_one_mirror_is_continued_at_another_if_the_length_agrees(
    server: MirrorServer, tmp_path: Path
) -> None:
    server.plan.append("cut")
    with pytest.raises(GivenUpError):
        fetch(server, tmp_path, n_pauses=0)
    server.etag = '"of the other mirror"'
    assert fetch(server, tmp_path, name="elsewhere/file") == CONTENT
    assert server.asked[-1] == ("/elsewhere/file", f"bytes={N // 2}-", "")


def test_a_part_of_one_mirror_is_dropped_at_another_if_the_length_differs(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.append("cut")
    with pytest.raises(GivenUpError):
        fetch(server, tmp_path, n_pauses=0)
    server.files["/elsewhere/file"] = OTHER[1000:]
    assert fetch(server, tmp_path, name="elsewhere/file") == OTHER[1000:]
    assert ranges(server) == ["", f"bytes={N // 2}-", ""]


def test_a_part_of_unknown_origin_is_not_built_upon(server: MirrorServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"who knows")
    (tmp_path / "file.part.json").write_text("{")
    assert fetch(server, tmp_path) == CONTENT


def test_a_part_that_was_whole_when_the_process_died_only_gets_its_name(server: MirrorServer, tmp_path: Path) -> None:
    server.plan.append("cut")
    with pytest.raises(GivenUpError):
        fetch(server, tmp_path, n_pauses=0)
    Part(tmp_path / "file").path.write_bytes(CONTENT)
    assert fetch(server, tmp_path) == CONTENT
    assert len(server.asked) == 1


def test_a_disk_that_takes_no_more_keeps_what_it_took(server: MirrorServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (N // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Part(tmp_path / "file").n_bytes() == N // 2
    assert fetch(server, tmp_path) == CONTENT
    assert ranges(server) == ["", f"bytes={N // 2}-"]
