"""Tell whether a `dvc.lock` belongs to the files beside it, from what git tracks alone.

`dvc status` and `dvc repro --dry` look at the data too, and fail where nobody pulled it, as in a pull request's checks.
"""

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from isic_siamese.errors import DataError

# A definition, and what makes its lock anew. The second runs on demand, so it may have no lock.
PIPELINES = {
    "dvc.yaml": "run 'dvc repro' (without raw files: --allow-missing) and commit dvc.lock and metrics/",
    "stages/dvc.yaml": "run 'dvc repro stages/dvc.yaml' and commit stages/dvc.lock and metrics/; or 'git rm' that lock "
    "with metrics/crossvalidate.json and its plot, to keep no cross-validation that later changes would have to repeat",
}
AFTER_A_MERGE = "after a merge take either side, then 'dvc repro'"

Stages = Mapping[str, Mapping[str, Any]]


def stale_locks(root: Path) -> list[str]:
    """Return a sentence for each stale lock below `root`: which stages, why, and what to run.

    Raises:
        DataError: a definition, a lock or the parameters are not YAML, as with the marks of a merge, or not DVC's.
    """
    tracked, sentences = set(_tracked(root)), []
    written: dict[str, str] = {}
    for definition, then in PIPELINES.items():
        lock = definition.replace(".yaml", ".lock")
        if (root / lock).exists():
            stages, locked = _stages(root / definition), _stages(root / lock)
            try:
                written |= {out["path"]: out["md5"] for name in stages for out in locked.get(name, {}).get("outs", [])}
                reasons = {name: [*_reasons(root, stages[name], locked.get(name), tracked, written)] for name in stages}
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{root / lock}: not one of {definition}: {error!r}; {AFTER_A_MERGE}") from None
            told = [f"{name} ({', '.join(why)})" for name, why in reasons.items() if why]
            if told:
                sentences.append(f"{lock} is stale: {'; '.join(told)}: {then}")
        elif definition == "dvc.yaml":
            sentences.append(f"dvc.lock is missing: {then}")
    return sentences


def _tracked(root: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=False, capture_output=True, text=True)
    if listed.returncode:
        raise DataError(f"git ls-files: {listed.stderr.strip()}; run it in a clone of the repository")
    return listed.stdout.split("\0")


def _stages(path: Path) -> Stages:
    stages: Stages = (_load(path) if path.exists() else {}).get("stages", {})
    return stages


def _load(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (YAMLError, ValueError) as error:
        raise DataError(f"{path}: not YAML: {error}; {AFTER_A_MERGE}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: wanted keys and values, got {type(content).__name__}; {AFTER_A_MERGE}")
    return content


def _reasons(
    root: Path,
    stage: Mapping[str, Any],
    locked: Mapping[str, Any] | None,
    tracked: set[str],
    written: Mapping[str, str],
) -> Iterator[str]:
    """Yield what of `stage`, as defined and as the files are now, is not what its lock holds.

    What git does not track is taken to be as it was `written`: another hash of it tells of a lock merged from two runs.
    What the lock holds beyond the definition is of no matter, to DVC either: 'dvc repro' would not take it out.
    """
    if locked is None:
        yield "never ran"
        return
    if stage["cmd"] != locked["cmd"]:
        yield "cmd"
    held = {entry["path"]: entry["md5"] for kind in ("deps", "outs") for entry in locked.get(kind, [])}
    for path in sorted(set(_paths(stage, "deps", "outs", "metrics", "plots"))):
        now = _md5(root / path) if path in tracked else written.get(path, held.get(path))
        if path not in held or held[path] != now:
            yield path
    figures = [*_paths(stage, "metrics", "plots"), *(x for x in _paths(stage, "outs") if x.startswith("metrics/"))]
    yield from (f"{path} is not in git" for path in figures if path not in tracked)
    yield from _changed_params(root, stage, locked)


def _paths(stage: Mapping[str, Any], *kinds: str) -> list[str]:
    """Return the paths of these kinds; an entry is one, or one with its settings."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for kind in kinds for entry in stage.get(kind, [])]


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def _changed_params(root: Path, stage: Mapping[str, Any], locked: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters of `stage` with another value than in the lock, as deep as both have names for them."""
    params = _load(root / "params.yaml")
    before = locked.get("params", {}).get("params.yaml", {})
    for name in sorted(stage.get("params", [])):
        yield from _differences(before.get(name), params.get(name), name)


def _differences(before: object, now: object, name: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}")
    elif before != now:
        yield name
