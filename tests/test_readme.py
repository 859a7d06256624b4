"""The README says what the files say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_fits_150_lines_and_names_every_stage() -> None:
    assert len(README.splitlines()) <= 150
    for path in (ROOT / "stages").glob("[!_]*.py"):
        assert path.stem in README or path.stem == "crossvalidate"


def test_the_tree_names_what_lies_at_the_top() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    named = {line.split()[0].rstrip("/").split("/")[0] for line in tree.strip().splitlines()}
    for name in ("params.yaml", "dvc.yaml", "stages", "src", "data", "metrics", "tests", "benchmarks", "docs"):
        assert name in named and (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
