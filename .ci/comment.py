"""Post a review as a comment on its pull request, or update the comment that is there.

    GH_TOKEN=... GITHUB_REPOSITORY=owner/name HEAD=owner:branch SHA=<commit> python3 .ci/comment.py review.md

Runs with a token that may write, so it trusts nothing that a pull request brought: the number is looked up by the
branch and commit that GitHub says were checked, and the review is text. Needs the standard library alone.
"""

import json
import os
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

MARK = "<!-- review -->"
AUTHOR = "github-actions[bot]"
LIMIT = 65_000  # GitHub refuses more than 65,536 characters
NONE = "The review could not be composed: the log of `checks` says why."


def call(method: str, path: str, body: str | None = None) -> Any:
    """Call GitHub's REST interface for this repository; return what it answers."""
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com")
    request = urllib.request.Request(
        f"{api}/repos/{os.environ['GITHUB_REPOSITORY']}/{path}",
        method=method,
        data=None if body is None else json.dumps({"body": body}).encode(),
        headers={"Authorization": f"Bearer {os.environ['GH_TOKEN']}", "Accept": "application/vnd.github+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def find_pull(head: str, sha: str) -> int | None:
    """Return the number of the open pull request of branch `head` at commit `sha`, if it is still there."""
    query = urllib.parse.urlencode({"state": "open", "head": head})
    return next((pull["number"] for pull in call("GET", f"pulls?{query}") if pull["head"]["sha"] == sha), None)


def find_comment(number: int) -> int | None:
    """Return the comment that an earlier run made, if any."""
    page = 1
    while comments := call("GET", f"issues/{number}/comments?per_page=100&page={page}"):
        for comment in comments:
            if comment["user"]["login"] == AUTHOR and comment["body"].startswith(MARK):
                return int(comment["id"])
        page += 1
    return None


def main() -> None:
    """Post or update, and say which."""
    number = find_pull(os.environ["HEAD"], os.environ["SHA"])
    if number is None:
        sys.stderr.write("The branch has moved on or its pull request is closed: nothing to comment on.\n")
        return
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    # First, where nothing can hide it: whoever opens a pull request decides what its code says of it.
    source = f"<sub>Composed by the code of this branch, at {os.environ['SHA']}.</sub>"
    body = f"{MARK}\n{source}\n\n{(text or NONE)[:LIMIT]}\n"
    comment = find_comment(number)
    if comment is None:
        call("POST", f"issues/{number}/comments", body)
    else:
        call("PATCH", f"issues/comments/{comment}", body)
    sys.stderr.write(f"{'Posted' if comment is None else 'Updated'} the comment on #{number}.\n")


if __name__ == "__main__":
    main()
