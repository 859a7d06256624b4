"""The Python of `docs/`, run as it is printed."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from isic_siamese.verification import verify_release
from tests.answered_project import draw_images

ROOT = Path(__file__).parents[1]


def blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def draw_jpeg(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    (image,) = draw_images(np.random.default_rng(seed), np.array([seed % 2 == 0]))
    Image.fromarray(image).save(path, "JPEG", quality=95)


def test_images_of_another_source_become_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ham = pd.DataFrame(
        {
            "lesion_id": [f"HAM_{number // 2:07}" for number in range(12)],
            "image_id": [f"ISIC_{number:07}" for number in range(12)],
            "dx": np.repeat(["mel", "nv", "bkl", "mel", "bcc", "akiec"], 2),
            "dx_type": "histo",
            "age": np.repeat([45.0, np.nan, 0.0, 80.0, 60.0, 70.0], 2),
            "sex": np.repeat(["male", "unknown", "female", "male", "male", "female"], 2),
            "localization": "back",
        }
    )
    ham.to_csv("HAM10000_metadata.csv", index=False)
    for number, name in enumerate(ham["image_id"]):
        draw_jpeg(Path(f"HAM10000_images/{name}.jpg"), number)
    (block,) = blocks("docs/data.md")
    exec(block, {})
    counts = verify_release(tmp_path / "ham10000", tmp_path / "verified.json")
    train = {"images": 8, "melanomas": 4, "patients": 4, "duplicate_pairs": 0}
    assert counts == {"train": train, "test": {"images": 0}}
    with zipfile.ZipFile("ham10000/ISIC_2020_Training_JPEG.zip") as archive:
        assert archive.read("train/ISIC_0000003.jpg") == Path("HAM10000_images/ISIC_0000003.jpg").read_bytes()


def test_a_trained_model_answers_from_python(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(here / "data")
    monkeypatch.chdir(tmp_path)
    draw_jpeg(Path("lesion.jpg"), 0)
    first, export, _ = blocks("docs/prediction.md")
    names: dict[str, Any] = {}
    exec(first + export, names)
    answer = names["answer"]
    assert 0 < answer.probability < 1 and len(answer.nearest) == 3
    assert {"image_name", "diagnosis", "target", "distance"} <= {*answer.nearest}
    predictor, images = names["predictor"], torch.from_numpy(names["image"][None])
    assert np.linalg.norm(predictor.embed([names["image"]])) == pytest.approx(1)
    exported, device = torch.export.load("encoder.pt2").module(), predictor.encoder.centre.device
    with torch.no_grad():
        assert torch.equal(exported(images.to(device)), predictor.encoder(images.to(device)))


def test_own_scores_get_an_interval_over_patients() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(120) % 3 // 2
    scores = rng.normal(size=120) + 1.5 * target
    table = pd.DataFrame({"patient_id": [f"P{n // 2}" for n in range(120)], "target": target, "score": scores})
    *_, second = blocks("docs/prediction.md")
    *lines, last = second.rstrip().splitlines()
    names: dict[str, Any] = {"table": table}
    exec("\n".join(lines), names)
    shown = eval(last.partition("#")[0], names)
    assert shown["value"] == pytest.approx(roc_auc_score(target, scores))
    assert 0.02 < shown["value"] - shown["low"] < 0.2 and shown["low"] < shown["value"] < shown["high"] < 1
