import re
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from pydantic import ValidationError
from ruamel.yaml import YAML

from isic_siamese.augment import AugmentParams
from isic_siamese.crossvalidation import CrossvalidateParams
from isic_siamese.demo import DemoParams
from isic_siamese.errors import ParamsError
from isic_siamese.evaluation import EvaluateParams
from isic_siamese.pairs import PairsParams
from isic_siamese.params import Params, Section
from isic_siamese.review import ReviewParams
from isic_siamese.shards_params import ShardsParams
from isic_siamese.splits import SplitParams
from isic_siamese.training_data import TrainParams
from tests.checkout import write_params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
MODELS: dict[str, type[Section]] = {
    "demo": DemoParams,
    "shards": ShardsParams,
    "split": SplitParams,
    "pairs": PairsParams,
    "augment": AugmentParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "crossvalidate": CrossvalidateParams,
    "review": ReviewParams,
}


def edited(tmp_path: Path, old: str, new: str) -> Path:
    path = tmp_path / "params.yaml"
    write_params(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_committed_parameters_load_and_every_section_has_its_model() -> None:
    params = Params(COMMITTED)
    assert 0 < params.common.margin <= 2
    content = YAML(typ="safe").load(COMMITTED.read_text())
    assert set(MODELS) == {name for name, value in content.items() if isinstance(value, dict)}
    for name, model in MODELS.items():
        params.section(name, model)


def test_a_number_that_dvc_writes_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    path = edited(tmp_path, "weight_decay: 0.05", "weight_decay: 1e-3")
    assert Params(path).section("train", TrainParams).weight_decay == 0.001


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("margin: 1.0", "margin: 2.5", "margin: input should be less than or equal to 2, got 2.5"),
        ("margin: 1.0", "margin: high", "margin: input should be a valid number, got 'high'"),
        ("margin: 1.0", "margin: .nan", "margin: input should be a finite number, got nan"),
        ("margin: 1.0", "margn: 1.0", "margn: no such key; check its spelling"),
        ("margin: 1.0", "margn: 1.0", "margin: this key is missing"),
        ("seed: 2020", "seed: 1.5", "seed: input should be a valid integer, got 1.5"),
        ("margin: 1.0", "margin: {}", "margin: input should be a valid number, got {}"),
        ("release: demo", "release: ''", "release: string should have at least 1 character, got ''"),
    ],
)
def test_a_wrong_key_at_the_top_is_named_with_what_was_wanted_and_what_came(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ParamsError) as error:
        Params(edited(tmp_path, old, new))
    assert f"params.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  weights: imagenet",
            "  weights: none",
            "train: frozen_groups would keep random weights; with weights: none set frozen_groups to 0",
        ),
        (
            "  warmup_epochs: 1.0",
            "  warmup_epochs: 21.0",
            "train: the warm-up would end after training: warmup_epochs is 21, epochs 20; "
            "lower the one or raise the other",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_named_without_the_whole_section(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ParamsError) as error:
        Params(edited(tmp_path, old, new)).section("train", TrainParams)
    assert str(error.value).endswith(f"params.yaml: {message}")


def test_a_date_that_does_not_exist_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml: not YAML: month must be in 1\.\.12"):
        Params(edited(tmp_path, "release: demo", "release: 2024-31-12"))


def test_random_weights_are_frozen_in_no_group_and_the_warm_up_may_last_to_the_end(tmp_path: Path) -> None:
    fields = Params(edited(tmp_path, "  warmup_epochs: 1.0", "  warmup_epochs: 20.0")).section("train", TrainParams)
    TrainParams.model_validate(fields.model_dump() | {"weights": "none", "frozen_groups": 0})
    with pytest.raises(ValidationError, match="would keep random weights"):
        TrainParams.model_validate(fields.model_dump() | {"weights": "none", "frozen_groups": 1})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  epochs:", "  epoch:", "train.epoch: no such key; check its spelling"),
        ("  epochs:", "  epoch:", "train.epochs: this key is missing"),
        (
            "  embedding_dim: 512",
            "  embedding_dim: '512'",
            "train.embedding_dim: input should be a valid integer, got '512'",
        ),
        (
            "  weights: imagenet",
            "  weights: google",
            "train.weights: input should be 'imagenet', 'timm' or 'none', got 'google'",
        ),
        (
            "  embedding_dim: 512",
            "  embedding_dim: 100000",
            "train.embedding_dim: input should be less than or equal to 16384, got 100000",
        ),
        (
            "  weight_decay: 0.05",
            "  weight_decay: 1.0e+10",
            "train.weight_decay: input should be less than or equal to 10, got 10000000000.0",
        ),
        (
            "  frozen_groups: all",
            "  frozen_groups: most",
            "train.frozen_groups: input should be 'all' or an integer from 0, got 'most'",
        ),
        (
            "  frozen_groups: all",
            "  frozen_groups: -1",
            "train.frozen_groups: input should be 'all' or an integer from 0, got -1",
        ),
        (
            "  frozen_groups: all",
            "  frozen_groups: true",
            "train.frozen_groups: input should be 'all' or an integer from 0, got True",
        ),
    ],
)
def test_a_wrong_key_of_a_section_is_named_with_the_section(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        Params(edited(tmp_path, old, new)).section("train", TrainParams)
    assert message in str(error.value)


@pytest.mark.parametrize(("value", "limit"), [("1.0e-7", "0.000001"), ("1.0e+4", "1000")])
def test_a_penalty_that_leaves_nothing_to_learn_or_nothing_to_hear_is_refused(
    tmp_path: Path, value: str, limit: str
) -> None:
    with pytest.raises(ParamsError, match=rf"evaluate.vote_penalty: input should be .*{limit}, got "):
        Params(edited(tmp_path, "  vote_penalty: 0.3", f"  vote_penalty: {value}")).section("evaluate", EvaluateParams)


@pytest.mark.parametrize("value", ["0.0", "0.4", "0.9999999999999999", "1.0"])
def test_a_confidence_that_gives_intervals_of_no_width_or_no_end_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ParamsError, match=rf"evaluate.confidence: input should be .* or equal to 0.*, got {value}"):
        Params(edited(tmp_path, "  confidence: 0.95", f"  confidence: {value}")).section("evaluate", EvaluateParams)


@pytest.mark.parametrize("value", ["true", "8.0", "2"])
def test_orientations_are_one_or_eight_as_a_whole_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(ParamsError, match=r"evaluate.orientations: input should be 1 or 8, got (True|8\.0|2)"):
        Params(edited(tmp_path, "  orientations: 8", f"  orientations: {value}")).section("evaluate", EvaluateParams)


def test_a_file_that_is_missing_or_not_yaml_and_a_missing_section_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="no such file; run from the root of the repository"):
        Params(path)
    path.write_text("margin: [1")
    with pytest.raises(ParamsError, match="not YAML"):
        Params(path)
    path.write_text("")
    with pytest.raises(ParamsError, match="wanted keys and values, got nothing"):
        Params(path)
    path.write_text("- margin")
    with pytest.raises(ParamsError, match="wanted keys and values, got list"):
        Params(path)
    path.write_text("release: demo\nseed: 1\nmargin: 1.0\n")
    with pytest.raises(ParamsError, match="section 'pairs' is missing"):
        Params(path).section("pairs", PairsParams)
    for wrong in ("", " []"):
        path.write_text(f"release: demo\nseed: 1\nmargin: 1.0\npairs:{wrong}\n")
        with pytest.raises(ParamsError, match=r"pairs: wanted keys and values, got (None|\[\])"):
            Params(path).section("pairs", PairsParams)
    path.write_text("release: demo\nseed: 1\nmargin: 1.0\npairz: {views_per_block: 64}\n")
    with pytest.raises(ParamsError, match="section 'pairs' is missing; there are: pairz"):
        Params(path).section("pairs", PairsParams)


def test_all_wrong_keys_come_in_one_message(tmp_path: Path) -> None:
    path = edited(tmp_path, "  epochs: 20", "  epochs: 0\n  dropout: 0.5")
    with pytest.raises(ParamsError) as error:
        Params(path).section("train", TrainParams)
    assert "train.epochs: input should be greater than or equal to 1, got 0" in str(error.value)
    assert "train.dropout: no such key" in str(error.value)


def test_dvc_leaves_the_file_as_it_is_but_for_what_an_experiment_changes(tmp_path: Path) -> None:
    before = COMMITTED.read_text(encoding="utf-8")
    copy = tmp_path / "params.yaml"
    copy.write_text(before, encoding="utf-8")
    apply_overrides(str(copy), ["margin=1.7"])
    assert copy.read_text(encoding="utf-8") == re.sub("^margin: [^ ]+", "margin: 1.7", before, flags=re.MULTILINE)
