"""The workflows are well-formed, pinned and harmless, and the comment on a pull request is posted once."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_only_the_workflow_that_runs_no_code_of_a_pull_request_may_write() -> None:
    for path in WORKFLOWS:
        workflow = YAML(typ="safe").load(path.read_text())
        granted = [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]
        writes = any("write" in scopes.values() for scopes in granted)
        assert writes == (path.name == "comment.yml")
        assert "pull_request_target" not in workflow["on"] and "secrets." not in path.read_text()
        for step in (step for job in workflow["jobs"].values() for step in job["steps"]):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
                assert "ref" not in step["with"]


def test_the_auditor_finds_nothing() -> None:
    command = [
        str(Path(sys.executable).with_name("zizmor")),
        "--offline",
        "--pedantic",
        "--no-progress",
        *map(str, WORKFLOWS),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


class GitHub(BaseHTTPRequestHandler):
    """So much of GitHub's REST interface as the comment needs, with a state."""

    pulls: list[dict[str, Any]]
    comments: list[dict[str, Any]]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/repos/owner/name/pulls":
            self.answer([pull for pull in self.pulls if pull["head"]["label"] == query["head"]])
        else:
            assert url.path == "/repos/owner/name/issues/7/comments"
            size, page = int(query["per_page"]), int(query["page"])
            self.answer(self.comments[size * (page - 1) : size * page])

    def do_POST(self) -> None:
        assert self.path == "/repos/owner/name/issues/7/comments"
        self.comments.append({"id": len(self.comments), "user": {"login": "github-actions[bot]"}, **self.body()})
        self.answer(self.comments[-1])

    def do_PATCH(self) -> None:
        comment = self.comments[int(self.path.removeprefix("/repos/owner/name/issues/comments/"))]
        comment.update(self.body())
        self.answer(comment)

    def body(self) -> dict[str, Any]:
        assert self.headers["Authorization"] == "Bearer token"
        content: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return content

    def answer(self, content: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def github() -> Iterator[ThreadingHTTPServer]:
    GitHub.pulls = [{"number": 7, "head": {"label": "fork:change", "sha": "abc"}}]
    # A person's comment that copies the mark is not ours to overwrite; the bot's own is found past the first page.
    GitHub.comments = [{"id": 0, "user": {"login": "person"}, "body": "<!-- review -->\nmine"}]
    GitHub.comments += [{"id": n, "user": {"login": "person"}, "body": "words"} for n in range(1, 120)]
    with ThreadingHTTPServer(("127.0.0.1", 0), GitHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def comment(server: ThreadingHTTPServer, folder: Path, text: str | None, sha: str = "abc") -> str:
    review = folder / "review.md"
    if text is not None:
        review.write_text(text)
    environment = {
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
        "GITHUB_REPOSITORY": "owner/name",
        "GH_TOKEN": "token",
        "HEAD": "fork:change",
        "SHA": sha,
    }
    command = [sys.executable, "-I", str(ROOT / ".ci/comment.py"), str(review)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_a_comment_is_posted_once_and_then_updated(github: ThreadingHTTPServer, tmp_path: Path) -> None:
    before = json.loads(json.dumps(GitHub.comments))
    assert comment(github, tmp_path, "first") == "Posted the comment on #7.\n"
    assert comment(github, tmp_path, "second" * 20_000) == "Updated the comment on #7.\n"
    assert GitHub.comments[:-1] == before
    source = "<sub>Composed by the code of this branch, at abc.</sub>"
    assert GitHub.comments[-1]["body"].startswith(f"<!-- review -->\n{source}\n\nsecond")
    assert 65_000 < len(GitHub.comments[-1]["body"]) < 65_536


@pytest.mark.parametrize("text", ["", "\n", None])
def test_a_review_that_could_not_be_composed_is_no_empty_comment(
    github: ThreadingHTTPServer, tmp_path: Path, text: str | None
) -> None:
    comment(github, tmp_path, text)
    assert "The review could not be composed: the log of `checks` says why." in GitHub.comments[-1]["body"]


def test_a_branch_that_moved_on_gets_no_comment(github: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert "moved on" in comment(github, tmp_path, "old", sha="def")
    assert len(GitHub.comments) == 120
