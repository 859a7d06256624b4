from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isic_siamese.errors import DataError
from isic_siamese.pairs import COLUMNS, PairsParams, count_pairs, draw_pairs, read_pairs

PARAMS = PairsParams(views_per_block=64, pairs_per_block=1024)


def draw(n_melanoma: int, n_benign: int, *, oversample: bool = True, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Pairs over rows that are not 0..n-1, and whether each row is melanoma."""
    malignant = np.random.default_rng(seed).permutation(np.arange(n_melanoma + n_benign) < n_melanoma)
    of_row = np.zeros(3 * len(malignant), bool)
    rows = np.arange(len(malignant)) * 3
    of_row[rows] = malignant
    return draw_pairs(rows, malignant, PARAMS, np.random.default_rng(seed), oversample), of_row


@settings(deadline=None, max_examples=40, derandomize=True)
@given(n_melanoma=st.integers(2, 90), n_benign=st.integers(2, 300), oversample=st.booleans())
def test_pairs_are_balanced_labelled_right_and_never_of_one_image(
    n_melanoma: int, n_benign: int, oversample: bool
) -> None:
    pairs, malignant = draw(n_melanoma, n_benign, oversample=oversample)
    counts = count_pairs(pairs, malignant)
    assert counts["same_melanoma"] == counts["same_benign"] == counts["different"] / 2 > 0
    assert (pairs["left"] != pairs["right"]).all()
    expected = malignant[pairs["left"]] == malignant[pairs["right"]]
    assert (pairs["same"].to_numpy(bool) == expected).all()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(n_melanoma=st.integers(2, 90), n_benign=st.integers(90, 300))
def test_every_training_image_is_used_and_only_melanomas_are_oversampled(n_melanoma: int, n_benign: int) -> None:
    pairs, malignant = draw(n_melanoma, n_benign)
    ends = pd.DataFrame(
        {
            "row": pd.concat([pairs["left"], pairs["right"]]),
            "view": pd.concat([pairs["left_view"], pairs["right_view"]]),
        }
    ).drop_duplicates()
    benign = ends[~malignant[ends["row"]]]
    assert len(benign) == n_benign and (benign["view"] == 0).all()
    melanoma = ends[malignant[ends["row"]]]
    assert melanoma["row"].nunique() == n_melanoma and len(melanoma) == n_benign
    per_image = melanoma.groupby("row")["view"].agg(["size", "max"])
    assert per_image["size"].max() - per_image["size"].min() <= 1
    assert (per_image["max"] == per_image["size"] - 1).all()  # views are numbered 0, 1, 2, ...


def test_validation_and_test_pairs_show_each_image_as_it_is_and_are_in_a_block_once() -> None:
    pairs, _ = draw(10, 200, oversample=False)
    assert (pairs[["left_view", "right_view"]] == 0).to_numpy().all()
    assert not pairs.duplicated().any()


def test_a_block_of_consecutive_pairs_touches_no_more_views_than_named() -> None:
    pairs, _ = draw(50, 320)
    assert len(pairs) == 10 * 1024
    assert (pairs["block"] == np.arange(len(pairs)) // 1024).all()
    for _, block in pairs.groupby("block"):
        ends = np.concatenate([block[["left", "left_view"]], block[["right", "right_view"]]])
        assert len(np.unique(ends, axis=0)) == 64
        assert not block.duplicated().any()


def test_an_oversampled_image_meets_others_in_each_round() -> None:
    pairs, malignant = draw(64, 128)  # two blocks a round
    rows = [np.unique(block[["left", "right"]]) for _, block in pairs.groupby("block")]
    assert len({tuple(in_block[malignant[in_block]]) for in_block in rows}) == len(rows) == 4


@pytest.mark.parametrize("pairs_per_block", [64, 112])
def test_a_block_with_fewer_pairs_than_asked_for_is_a_block_all_the_same(pairs_per_block: int) -> None:
    """Copies of one image make no pair, so with few melanomas some blocks cannot have as many as the others."""
    malignant = np.arange(60) < 5
    params = PairsParams(views_per_block=16, pairs_per_block=pairs_per_block)
    pairs = draw_pairs(np.arange(60), malignant, params, np.random.default_rng(0), oversample=True)
    for _, block in pairs.groupby("block"):
        ends = np.concatenate([block[["left", "left_view"]], block[["right", "right_view"]]])
        assert len(block) <= pairs_per_block and len(np.unique(ends, axis=0)) <= 16
    assert (pairs.groupby("block").size() < pairs_per_block).any() == (pairs_per_block == 112)


def test_the_side_of_a_pair_says_nothing_of_the_class() -> None:
    pairs, malignant = draw(50, 320)
    different = pairs[pairs["same"] == 0]
    on_the_left = malignant[different["left"]].mean()
    assert 0.45 < on_the_left < 0.55


def test_the_seed_alone_decides_the_pairs() -> None:
    one, again, other = (draw(20, 100, seed=seed)[0] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, again)
    assert not one.equals(other)


def test_a_split_with_one_melanoma_is_refused() -> None:
    with pytest.raises(DataError, match="pairs: wanted at least 2 melanoma images in a split, got 1"):
        draw(1, 50)


def test_a_block_too_small_for_its_pairs_is_refused() -> None:
    with pytest.raises(ValidationError, match="8 views make at most 24 balanced pairs, got 28"):
        PairsParams(views_per_block=8, pairs_per_block=28)


def test_a_pair_index_reads_as_it_was_written(tmp_path: Path) -> None:
    pairs, _ = draw(5, 20)
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "pairs.csv", 3 * np.arange(25)), pairs)
    assert list(pairs) == COLUMNS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; run 'dvc repro pairs'"),
        ("left,right\n1,2\n", "not a pair index"),
        ("a\nb\n", "not a pair index"),
        (f"{','.join(COLUMNS)}\n", "not a pair index: no pairs"),
        (f"{','.join(COLUMNS)}\n0,4,5,0,0,1\n", "1 of its images are not in this split; run 'dvc repro pairs'"),
        (f"{','.join(COLUMNS)}\n0,-1,9,0,0,1\n", "2 of its images are not in this split"),
    ],
)
def test_a_wrong_pair_index_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_pairs(path, np.array([2, 3, 4]))


def test_a_pair_index_is_counted_by_its_pairs_images_and_views() -> None:
    columns = ["block", "left", "right", "left_view", "right_view", "same"]
    rows = [[0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1], [0, 2, 3, 0, 0, 1], [0, 0, 2, 0, 0, 0], [1, 1, 3, 2, 0, 0]]
    counts = count_pairs(pd.DataFrame(rows, columns=columns), np.array([True, True, False, False]))
    kinds = {"same_melanoma": 2, "same_benign": 1, "different": 2}
    assert counts == {"pairs": 5, **kinds, "images": 4, "views": 5, "oversampled_views": 2}
