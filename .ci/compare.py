"""Compare what `dvc repro` just made with the `dvc.lock` and `metrics/` that HEAD holds.

What is made of integers (release, shards, splits, pairs) must have the committed hashes on every machine. What training
made has them on the same kind of processor; on another the last bits of float sums differ, and then the figures that
have a 95 % interval must lie within the committed one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

EXACT = ("download", "shards", "split", "pairs")


def committed(path: str) -> str:
    """Return the file `path` as HEAD holds it."""
    return subprocess.run(["git", "show", f"HEAD:{path}"], check=True, capture_output=True, text=True).stdout


def lock_problems(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what differs between two locks that no difference of processors explains."""
    if list(old) != list(new):
        return [f"dvc.lock: stages {list(old)}, now {list(new)}"]
    problems = []
    for stage in new:
        # Of a trained stage the inputs that are code must be the committed ones; its other bytes may differ.
        for kind in ("cmd", "params", "deps", "outs"):
            before, after = (_comparable(lock[stage].get(kind), kind, stage) for lock in (old, new))
            if before != after:
                problems.append(f"dvc.lock: {stage}: {kind} differ from the committed ones")
    return problems


def _comparable(entries: Any, kind: str, stage: str) -> Any:
    if kind not in ("deps", "outs") or stage in EXACT:
        return entries
    return [(entry["path"], entry["md5"] if entry["path"].endswith(".py") else "") for entry in entries]


def figures(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested metrics by dotted name; a figure with an interval counts as one leaf."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and "low" not in value:
            leaves |= figures(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def metric_problems(path: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the figures of one metrics file that are not what was committed."""
    before, after = figures(old), figures(new)
    if before.keys() != after.keys():
        return [f"{path}: other figures than committed: {sorted(before.keys() ^ after.keys())}"]
    exact = Path(path).stem in EXACT
    problems = []
    for name, value in before.items():
        if value == after[name]:
            continue
        within = isinstance(value, dict) and not exact and value["low"] <= after[name]["value"] <= value["high"]
        if exact or (isinstance(value, dict) and not within):
            problems.append(f"{path}: {name}: committed {value}, now {after[name]}")
    return problems


def main() -> int:
    """Print each problem, or in what the two agree; return the exit status."""
    yaml = YAML(typ="safe")
    old, new = yaml.load(committed("dvc.lock"))["stages"], yaml.load(Path("dvc.lock").read_text())["stages"]
    problems = lock_problems(old, new)
    for path in sorted(Path("metrics").glob("*.json")):
        problems += metric_problems(str(path), json.loads(committed(str(path))), json.loads(path.read_text()))
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if problems:
        sys.stderr.write("Run 'dvc repro', look at 'dvc metrics diff', and commit dvc.lock and metrics/.\n")
        return 1
    agree = (
        "every byte" if old == new else "the bytes of the data and, where they have intervals, within them the figures"
    )
    sys.stderr.write(f"dvc repro made what is committed: {agree}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
