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

Stages = Mapping[str, Mapping[str, Any]]


def stale_locks(root: Path) -> list[str]:
    """Return a sentence for each stale lock below `root`: which stages, why, and what to run.

    Raises:
        DataError: a definition or a lock is not YAML, as with the marks of a merge in it.
    """
    tracked = set(_tracked(root))
    sentences = []
    for definition, then in PIPELINES.items():
        lock = definition.replace(".yaml", ".lock")
        if (root / lock).exists():
            stages, locked = _stages(root / definition), _stages(root / lock)
            reasons = {name: list(_reasons(root, stage, locked.get(name), tracked)) for name, stage in stages.items()}
            told = [f"{name} ({', '.join(why)})" for name, why in reasons.items() if why] or [*_broken_chain(locked)]
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
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.exists() else None
    except YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}; after a merge take either side, then 'dvc repro'") from None
    stages: Stages = (content or {}).get("stages", {})
    return stages


def _reasons(
    root: Path, stage: Mapping[str, Any], locked: Mapping[str, Any] | None, tracked: set[str]
) -> Iterator[str]:
    """Yield what of `stage`, as defined and as the files are now, is not what its lock holds."""
    if locked is None:
        yield "never ran"
        return
    if stage["cmd"] != locked["cmd"]:
        yield "cmd"
    hashes = {kind: {entry["path"]: entry["md5"] for entry in locked.get(kind, [])} for kind in ("deps", "outs")}
    yield from sorted(set(stage.get("deps", [])) ^ set(hashes["deps"]))
    yield from sorted(set(_results(stage, "outs", "metrics", "plots")) ^ set(hashes["outs"]))
    for path, md5 in (hashes["deps"] | hashes["outs"]).items():
        if path in tracked and _md5(root / path) != md5:
            yield path
    figures = [*_results(stage, "metrics", "plots"), *(x for x in _results(stage, "outs") if x.startswith("metrics/"))]
    yield from (f"{path} is not in git" for path in figures if path not in tracked)
    yield from _changed_params(root, stage, locked)


def _results(stage: Mapping[str, Any], *kinds: str) -> list[str]:
    """Return the paths of these kinds; an entry is one, or one with its settings."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for kind in kinds for entry in stage.get(kind, [])]


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def _changed_params(root: Path, stage: Mapping[str, Any], locked: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parameters of `stage` with another value than in the lock, as deep as both have names for them."""
    params = YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
    before = locked.get("params", {}).get("params.yaml", {})
    yield from _differences(before, {name: params.get(name) for name in stage.get("params", [])})


def _differences(before: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield name


def _broken_chain(locked: Stages) -> Iterator[str]:
    """Yield stages that read something else than was written: a lock merged from two runs."""
    written = {out["path"]: out["md5"] for stage in locked.values() for out in stage.get("outs", [])}
    for name, stage in locked.items():
        for dep in stage.get("deps", []):
            if written.get(dep["path"], dep["md5"]) != dep["md5"]:
                yield f"{name} ({dep['path']})"
