"""The stage script, in a folder of its own."""

import json
from pathlib import Path

import pytest

from isic_siamese import release
from isic_siamese.errors import DataError
from stages import download
from tests.release_folder import write_release


def set_release(named: str) -> None:
    Path("params.yaml").write_text(f"release: {named}\nseed: 1\nmargin: 1.0\n")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    write_release(tmp_path / "folder")


def test_a_folder_release_ends_in_five_files_and_their_counts() -> None:
    set_release("../folder")
    download.main()
    assert sorted(path.name for path in Path("data/raw").iterdir()) == sorted(release.FILES)
    train = {"images": 4, "melanomas": 1, "patients": 2, "duplicate_pairs": 1}
    assert json.loads(Path("metrics/download.json").read_text()) == {"train": train, "test": {"images": 2}}


def test_what_is_not_the_official_release_never_reaches_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    set_release("../folder")
    download.main()
    Path("metrics/download.json").unlink()
    set_release("isic2020")
    monkeypatch.setenv("ISIC_MIRROR", "../folder")
    with pytest.raises(DataError, match="not the official release: delete the wrong file"):
        download.main()
    assert Path("data/raw", release.TRAIN_ZIP).samefile(f"../folder/{release.TRAIN_ZIP}")
    assert not Path("metrics/download.json").exists()


def test_a_demo_that_is_drawn_anew_leaves_nothing_of_the_one_before() -> None:
    demo = "patients: 12, images: 24, melanomas: 6, duplicates: 1, test_images: 2, image_px: 64"
    for seed in (1, 1, 2):
        Path("params.yaml").write_text(f"release: demo\nseed: 1\nmargin: 1.0\ndemo: {{seed: {seed}, {demo}}}\n")
        download.main()
        assert Path("data/raw", release.TRAIN_ZIP).samefile(f"data/releases/demo/{release.TRAIN_ZIP}")
    assert sorted(path.name for path in Path("data/releases").iterdir()) == ["demo", "verified.json"]


def test_a_broken_release_leaves_the_one_in_use(tmp_path: Path) -> None:
    set_release("../folder")
    download.main()
    broken = write_release(tmp_path / "broken")
    (broken / release.TEST_ZIP).write_bytes(b"")
    set_release("../broken")
    with pytest.raises(DataError, match=r"broken/ISIC_2020_Test_JPEG\.zip: not a whole zip"):
        download.main()
    assert Path("data/raw", release.TEST_ZIP).samefile(tmp_path / "folder" / release.TEST_ZIP)
