"""`dvc.yaml` names all that a stage reads, so that a change is never missed and an unrelated one reruns nothing."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/isic_siamese"
MAIN = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
ON_DEMAND = YAML(typ="safe").load((ROOT / "stages/dvc.yaml").read_text())["stages"]
STAGES = MAIN | ON_DEMAND


def modules_imported(path: Path) -> set[Path]:
    """The package's modules that `path` imports, directly or through one another."""
    found: set[Path] = set()
    pending = [path]
    while pending:
        for node in ast.walk(ast.parse(pending.pop().read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("isic_siamese"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            files = {PACKAGE / f"{name.partition('.')[2]}.py" for name in names if name.startswith("isic_siamese.")}
            new = {file for file in files if file.exists()} - found
            found |= new
            pending += sorted(new)
    return found


def params_read(path: Path) -> set[str]:
    """The keys of `params.yaml` that a stage script asks for."""
    text = path.read_text(encoding="utf-8")
    return {*re.findall(r'section\("(\w+)"', text), *re.findall(r"common\.(\w+)", text)}


def data_named(path: Path) -> set[str]:
    """The folders and files of data/ that a stage script names."""
    return set(re.findall(r'"(data/[\w/.{}]*)', path.read_text(encoding="utf-8")))


def outputs(stage: dict[str, list[object]]) -> set[str]:
    """The paths a stage writes."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}  # type: ignore[call-overload]


def test_every_script_is_a_stage_and_every_stage_a_script() -> None:
    assert set(STAGES) == {path.stem for path in (ROOT / "stages").glob("[!_]*.py")}
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"PYTHONPATH=src python -m stages.{name}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_script_and_on_each_module_it_imports_and_on_no_other_code(name: str) -> None:
    script = ROOT / f"stages/{name}.py"
    wanted = {str(path.relative_to(ROOT)) for path in {script, *modules_imported(script)}}
    assert {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")} == wanted


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_the_parameters_it_reads_and_no_others(name: str) -> None:
    assert set(STAGES[name].get("params", [])) == params_read(ROOT / f"stages/{name}.py")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_every_path_in_data_that_its_script_names(name: str) -> None:
    stage = STAGES[name]
    declared = {dep for dep in stage["deps"] if dep.startswith("data/")} | outputs(stage)
    for path in data_named(ROOT / f"stages/{name}.py"):
        if path.startswith(("data/releases", "data/checkpoints")):  # kept outside DVC on purpose
            continue
        path = path.partition("{")[0].rstrip("/")
        assert any(known == path or known.startswith(f"{path}/") for known in declared), path


def test_every_dependency_in_data_is_made_by_a_stage() -> None:
    made = {path for stage in STAGES.values() for path in outputs(stage)}
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert not dep.startswith("data/") or any(dep == path or dep.startswith(f"{path}/") for path in made), dep


def test_results_tracked_by_git_are_metrics_or_plots_so_that_the_run_cache_stays_on() -> None:
    for stage in MAIN.values():
        for kind in ("metrics", "plots"):
            for entry in stage.get(kind, []):
                (path, options), *_ = entry.items()
                assert path.startswith("metrics/") and options["cache"] is False
        for entry in stage.get("outs", []):
            path = entry if isinstance(entry, str) else next(iter(entry))
            assert path.startswith("data/")


def test_no_parameter_has_a_name_that_the_run_cache_ignores() -> None:
    def names(section: object) -> set[str]:
        if not isinstance(section, dict):
            return set()
        return set(section) | {name for value in section.values() for name in names(value)}

    assert not names(YAML(typ="safe").load((ROOT / "params.yaml").read_text())) & {"size", "nfiles"}
