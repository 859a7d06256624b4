import json
from pathlib import Path

import numpy as np
import pytest

from isic_siamese.embedding import embed
from isic_siamese.encoder import build_encoder
from isic_siamese.errors import DataError
from isic_siamese.model_files import read_model, write_model
from tests.test_encoder import photographs


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_vit", "coat_lite_tiny"]
)  # the last has tensors of several names
def test_a_model_reads_as_it_was_written_and_gives_the_same_bytes_twice(tmp_path: Path, name: str) -> None:
    encoder = build_encoder(name, "none", 2, 16, 32)
    images = photographs(3, 32)
    for folder in ("one", "two"):
        write_model(tmp_path / folder, encoder, "stretch")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    again = read_model(tmp_path / "one")[0].cpu()
    np.testing.assert_allclose(embed(again, [images]), embed(encoder, [images]), atol=1e-6)
    encoder.freeze()
    np.testing.assert_array_equal(embed(again, [images]), embed(encoder, [images]))
    assert again.image_px == 32 and again.name == name


def test_what_a_run_that_was_killed_left_beside_a_model_goes(tmp_path: Path) -> None:
    """DVC would take it for a part of the model."""
    (tmp_path / ".123.model.safetensors").write_bytes(b"half")
    write_model(tmp_path, build_encoder("test_efficientnet", "none", 2, 16, 32), "stretch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_model_tells_how_it_was_trained(tmp_path: Path) -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 16, 32)
    for margin in (0.7, None):
        write_model(tmp_path, encoder, "pad", margin, "a1")
        _, facts = read_model(tmp_path)
        assert facts.seen == "a1"
        assert (facts.encoder, facts.image_px, facts.fit, facts.margin) == ("test_efficientnet", 32, "pad", margin)
        assert tuple(facts.mean) == encoder.mean and tuple(facts.std) == encoder.std
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"not a model of this project: encoder: Field required; run 'dvc repro -f train'"
    ):
        read_model(tmp_path)


def test_weights_of_another_run_are_refused_though_they_would_fit(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_model(tmp_path / name, build_encoder("test_efficientnet", "none", 3, 16, 32), "stretch")
    (tmp_path / "two/model.safetensors").replace(tmp_path / "one/model.safetensors")
    with pytest.raises(
        DataError, match=r"one: not a model .*: model\.safetensors is not the file that model\.json des"
    ):
        read_model(tmp_path / "one")


def test_a_missing_model_and_one_that_does_not_fit_its_description_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.json: no such file; run 'dvc repro train' or .* in the root of "):
        read_model(tmp_path)
    write_model(tmp_path, build_encoder("test_efficientnet", "none", 3, 16, 32), "stretch")
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts | {"embedding_dim": 4}))
    with pytest.raises(DataError, match="not a model of this project"):
        read_model(tmp_path)
    for wrong in ({"fit": "bogus"}, {"image_px": 0}, {"encoder": None}, {"encoder": "no_such_encoder"}):
        (tmp_path / "model.json").write_text(json.dumps(facts | wrong))
        with pytest.raises(DataError, match="not a model of this project"):
            read_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(facts))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="not a model of this project"):
        read_model(tmp_path)
