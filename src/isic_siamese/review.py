"""Compose what a reviewer needs to know of a change, as Markdown: `python -m isic_siamese.review main`.

Reads what git tracks alone, `dvc.lock`, `params.yaml` and `metrics/`, so it needs no data and no remote.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from isic_siamese.errors import DataError, run_command
from isic_siamese.params import Params, Section
from isic_siamese.staleness import AFTER_A_MERGE, stale_locks

EVALUATION = "metrics/evaluate.json"
PLOTS = "metrics/plots"
LIMIT = 60_000  # GitHub refuses a comment of more than 65,536 characters
STATES = {"A": "added", "D": "removed", "M": "changed"}

# Parameters that decide which images are in the test split.
DATA = {"release", "seed", "demo", "split", "shards.exclude"}

Figure = Mapping[str, float]


def _ascend(ends: list[float]) -> list[float]:
    if ends != sorted(ends):
        raise ValueError(f"wanted the lower end first, got {ends}")
    return ends


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascend)]


class ReviewParams(Section):
    """The section `review` of `params.yaml`: the headline figures, and the range that each must keep."""

    roc_auc: Range
    balanced_accuracy: Range


def judge(old: Figure | None, new: Figure | None, ends: list[float]) -> str:
    """Return why a headline figure needs a look, or nothing.

    Args:
        old: `value`, and `low` and `high` where there is an interval, on the base; `None` if it has no such figure.
        new: likewise, of the change.
        ends: lowest and highest value that are in order.

    >>> judge({"value": 0.9, "low": 0.85, "high": 0.95}, {"value": 0.79}, [0.6, 1.0])
    'fell by 0.110, more than its interval is wide (0.100)'
    """
    if new is None:
        return "is gone" if old else "is missing"
    if not ends[0] <= new["value"] <= ends[1]:
        return f"outside {ends[0]} to {ends[1]}"
    if old is None or "low" not in old:
        return ""
    fall, width = old["value"] - new["value"], old["high"] - old["low"]
    # Compared as rounded: the files hold six places, and 0.9 - 0.8 is less than 0.1.
    return f"fell by {fall:.3f}, more than its interval is wide ({width:.3f})" if round(fall - width, 6) > 0 else ""


def compose(base: str, url: str | None, stale: list[str], ranges: Mapping[str, list[float]]) -> str:
    """Return the comment for the files in the working directory.

    Args:
        base: the commit that they are compared with.
        url: address of the repository, under which the pictures of a commit are shown; `None` to name them only.
        stale: sentences about stale locks.
        ranges: name of a figure of `metrics/evaluate.json` to its lowest and highest good value.
    """
    metrics, params = _dvc_diff("metrics", base), _dvc_diff("params", base)
    plots = list(_plots(base, url))
    changed = [name for name, lines in (("metric", metrics), ("parameter", params), ("plot", plots)) if lines]
    cautions = [*stale, *_other_images(params, base, Params().common.release)]
    parts = [f"## What this changes against `{base}`", *(f"> [!CAUTION]\n> {sentence}." for sentence in cautions)]
    parts += ["\n".join(_headline(base, ranges))]
    if not changed:
        return "\n\n".join([*parts, "No metric, parameter or plot changed.\n"])
    parts += ["### Parameters", "\n".join(params)] if params else ["No parameter changed."]
    parts += [_details(metrics, base)] if metrics else ["No metric changed."]
    parts += ["### Plots", "\n".join(plots)] if plots else ["No plot changed."]
    return "\n\n".join(parts) + "\n"


def _other_images(params: list[str], base: str, release: str) -> Iterator[str]:
    """Yield a sentence if the test images are others than those of `base`, by the table of `dvc params diff`."""
    changed = [line.split("|")[2].strip() for line in params[2:]]
    decides = DATA if release == "demo" or "release" in changed else DATA - {"demo"}
    decisive = [f"`{key}`" for key in changed if key in decides or key.partition(".")[0] in decides]
    if decisive:
        yield f"These figures and those of `{base}` are of different images: {', '.join(decisive)} changed"


def _headline(base: str, ranges: Mapping[str, list[float]]) -> Iterator[str]:
    here = Path(EVALUATION)
    before = _parse_figures(_show(base), ranges)
    now = _parse_figures(here.read_text(encoding="utf-8") if here.exists() else "", ranges)
    verdicts = {name: judge(before.get(name), now.get(name), ends) for name, ends in ranges.items()}
    bad = sum(map(bool, verdicts.values()))
    yield f"**{bad} of {len(ranges)} headline figures need a look.**" if bad else "The headline figures are in order."
    yield ""
    yield f"| figure | `{base}` | here | change | |"
    yield "|---|---|---|---|---|"
    for name, verdict in verdicts.items():
        old, new = before.get(name), now.get(name)
        change = f"{new['value'] - old['value']:+.3f}" if old and new else "-"
        yield f"| {name} | {_cell(old)} | {_cell(new)} | {change} | {f':warning: {verdict}' if verdict else ''} |"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:.3f}" + (f" ({figure['low']:.3f} to {figure['high']:.3f})" if "low" in figure else "")


def _details(metrics: list[str], base: str) -> str:
    table = "\n".join(metrics)
    if len(table) > LIMIT:
        return f"{len(metrics) - 2} numbers of `metrics/` changed, too many to show: `dvc metrics diff {base}`."
    return f"<details><summary>{len(metrics) - 2} numbers of metrics/ changed</summary>\n\n{table}\n\n</details>"


def _dvc_diff(kind: str, base: str) -> list[str]:
    """Return the lines of the Markdown table of `dvc metrics diff` or `dvc params diff`; none if nothing changed."""
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", base]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise DataError(f"dvc {kind} diff {base}: {done.stderr.strip()}")
    # Not the sentence on the goal, which says in words what the headline says, and makes a table as wide as itself.
    lines = [line for line in done.stdout.splitlines() if line and "| goal " not in line]
    return lines if len(lines) > 2 else []


def _plots(base: str, url: str | None) -> Iterator[str]:
    """Yield lines of Markdown on the plots that changed: pictures before and after, other files by name."""
    words = _git("diff", "--name-status", "--no-renames", "-z", base, "--", PLOTS).split("\0")[:-1]
    commits = {"before": base, "after": _git("rev-parse", "HEAD").strip()}
    for state, path in zip(words[::2], words[1::2], strict=True):
        yield f"- {STATES.get(state, 'changed')}: `{path}`"
        if url is None or not path.endswith(".png"):
            continue
        shown = [word for word in commits if (word, state) not in {("before", "A"), ("after", "D")}]
        cells = [f"![{word}]({url}/blob/{commits[word]}/{path}?raw=true)" for word in shown]
        yield f"\n  | {' | '.join(shown)} |\n  |{'---|' * len(shown)}\n  | {' | '.join(cells)} |\n"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise DataError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _show(base: str) -> str:
    """Return the text of `EVALUATION` at `base`, "" where it is not there."""
    try:
        return _git("show", f"{base}:{EVALUATION}")
    except DataError:
        return ""


def _parse_figures(text: str, names: Iterable[str]) -> dict[str, Figure]:
    """Return those of the figures `names` that are in `text`, the content of `EVALUATION`."""
    try:
        content = json.loads(text or "{}")
    except ValueError as error:
        raise DataError(f"{EVALUATION}: not JSON: {error}; {AFTER_A_MERGE}") from None
    if not isinstance(content, dict):
        raise DataError(f"{EVALUATION}: wanted names and values, got {type(content).__name__}; run 'dvc repro'")
    figures = {name: content[name] for name in names if name in content}
    for name, found in figures.items():
        if not isinstance(found, dict) or not {"value", "low", "high"} >= {*found} >= {"value"}:
            raise DataError(f"{EVALUATION}: {name}: wanted value, low and high, got {found!r}; run 'dvc repro'")
    return figures


def common_commit(base: str) -> str:
    """Return where the current branch left `base`, as an abbreviated hash, so that what landed there since is not told.

    Raises:
        DataError: there is no such revision, or it shares no commit with the current branch.
    """
    try:
        return _git("rev-parse", "--short=10", _git("merge-base", base, "HEAD").strip()).strip()
    except DataError:
        problem = f"{base}: no such revision, or nothing in common with HEAD"
        raise DataError(f"{problem}; fetch it, or name another: make review BASE=origin/main") from None


def main() -> None:
    """Write the comment to standard output; fail if a lock is stale."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("base", nargs="?", default="main", help="branch or commit to compare with (main)")
    parser.add_argument("--url", help="address of the repository, to show its pictures")
    arguments = parser.parse_args()
    ranges = Params().section("review", ReviewParams).model_dump()
    stale = stale_locks(Path())
    sys.stdout.write(compose(common_commit(arguments.base), arguments.url, stale, ranges))
    sys.stdout.flush()
    if stale:
        raise DataError("; ".join(stale))


if __name__ == "__main__":
    run_command(main)
