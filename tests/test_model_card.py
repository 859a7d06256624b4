import json
import re
from pathlib import Path

import pytest

from isic_siamese import model_card
from isic_siamese.controls import SHUFFLES
from isic_siamese.errors import DataError
from isic_siamese.measures import DERMATOLOGISTS
from isic_siamese.model_card import SOURCES, compose_card, documents, update_readme

ROOT = Path(__file__).parents[1]
FIGURE = {"value": 0.873, "low": 0.8, "high": 0.95}


def some_numbers() -> model_card.Numbers:
    both = {"specificity": FIGURE, "sensitivity": FIGURE}
    group = {"images": 40, "melanomas": 3}
    counts = {"patients": 1412, "images": 23000, "melanomas": 400, "melanoma_fraction": 0.0174}
    return {
        "split": {"train": counts},
        "evaluate": {
            "goal": "balanced accuracy 0.830 (0.790 to 0.870): the lower end does not reach 0.80",
            "roc_auc": FIGURE,
            "balanced_accuracy": {"value": 0.83, "low": 0.79, "high": 0.87},
            "counts": {"test": {"images": 4900, "melanomas": 86, "patients": 308}},
            "ppv": {"value": 0.1},
            "at_dermatologists": dict.fromkeys(DERMATOLOGISTS, both),
            "groups": {"site": {"head_neck": group, "torso": {**group, "roc_auc": FIGURE}}},
        },
        "controls": {
            **{name: {"roc_auc": {"value": 0.5}} for name in model_card.CONTROLS},
            "all_benign": {"accuracy": {"value": 0.9824}},
        },
    }


def test_the_card_holds_the_figures_with_their_intervals() -> None:
    lines = compose_card("isic2020", 0.95, some_numbers()).splitlines()
    assert "| ROC AUC | 0.873 (0.800 to 0.950) |" in lines
    assert "| Positive predictive value | 0.100 |" in lines
    assert "| F1 | - |" in lines  # it does not exist, and is not left out silently
    assert "| train | 1,412 | 23,000 | 400 (1.7%) |" in lines
    assert "| site: head neck | 40 | 3 | - | - | - |" in lines
    assert any("does not reach 0.80" in line for line in lines)
    assert "not a diagnostic device" in " ".join(lines)
    assert not any("drawn images" in line for line in lines)
    assert "| Brinker 2019 (74.1 / 60.0 %) | 0.873 (0.800 to 0.950) | 0.873 (0.800 to 0.950) |" in lines


def test_the_card_tells_how_often_labels_are_shuffled() -> None:
    """As a number of its own, because what shuffles them takes seconds to import."""
    assert f"mean and spread of {SHUFFLES} " in model_card.CONTROLS["shuffled_labels"]


def test_the_card_of_the_demo_says_that_it_is_of_no_skin_and_no_dermatologist_has_seen() -> None:
    card = compose_card("demo", 0.95, some_numbers())
    assert "these figures say nothing of skin" in card and "their own studies" not in card


def test_the_readme_has_the_figures_of_the_demo_and_else_stays_as_it_is() -> None:
    before = "# Title\n\n| demo (drawn) | - |\n| real | - |\n"
    assert update_readme(before, some_numbers()).splitlines() == [
        "# Title",
        "",
        "| demo (drawn) | 4900 (86) | 308 | 0.873 (0.800 to 0.950) | 0.830 (0.790 to 0.870) |",
        "| real | - |",
    ]
    with pytest.raises(DataError, match=r"README\.md: wanted one line that begins with '\| demo \(drawn\) \| ', got 0"):
        update_readme("# Title\n", some_numbers())


def test_metrics_that_are_absent_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(DataError, match=r"metrics/split\.json: no such file; run 'dvc repro'"):
        documents()


@pytest.mark.parametrize("release", ["demo", "isic2020"])
def test_the_card_is_written_and_the_readme_too_where_the_release_is_the_demo(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"^release: \w+", f"release: {release}", params, flags=re.MULTILINE))
    (tmp_path / "metrics").mkdir()
    for name, numbers in some_numbers().items():
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(numbers))
    before = "| demo (drawn) | - |\n"
    (tmp_path / "README.md").write_text(before)
    (tmp_path / "docs").mkdir()
    model_card.main()
    assert (tmp_path / "docs/model-card.md").read_text() == compose_card(release, 0.95, some_numbers())
    after = update_readme(before, some_numbers()) if release == "demo" else before
    assert (tmp_path / "README.md").read_text() == after


def test_metrics_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "metrics").mkdir()
    for name in SOURCES:
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="not the metrics of this version"):
        documents()


@pytest.mark.skipif(
    not all((ROOT / f"metrics/{name}.json").exists() for name in SOURCES), reason="needs the metrics of 'dvc repro'"
)
def test_the_committed_documents_are_those_of_the_committed_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path, text in documents().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is of other metrics: run 'make card'"
