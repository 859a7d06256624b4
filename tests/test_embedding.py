from pathlib import Path

import numpy as np
import pytest
import torch

from isic_siamese.embedding import embed, embed_rows, pool_rows
from isic_siamese.encoder import SiameseEncoder, build_encoder
from isic_siamese.errors import DataError
from isic_siamese.shards import Shards
from tests.test_encoder import photographs


def test_embeddings_have_unit_length_and_one_row_an_image_in_order() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 16, 32)
    images = photographs(7, 32)
    embeddings = embed(encoder, [images[:4], images[4:]])
    assert embeddings.shape == (7, 16) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embeddings[5:6], embed(encoder, [images[5:6]]), atol=1e-5)
    assert embed(encoder, []).shape == (0, 16)


def test_eight_orientations_give_the_same_embedding_however_the_image_is_held() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    upright = embed(encoder, [images], 8)
    np.testing.assert_allclose(np.linalg.norm(upright, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embed(encoder, [np.rot90(images, 1, (1, 2)).copy()], 8), upright, atol=1e-5)
    np.testing.assert_allclose(embed(encoder, [images[:, ::-1].copy()], 8), upright, atol=1e-5)
    assert np.abs(embed(encoder, [np.rot90(images, 1, (1, 2)).copy()]) - embed(encoder, [images])).max() > 1e-3


@pytest.mark.parametrize("batch_size", [2, 1000])  # many batches, and one alone
def test_the_number_of_cores_changes_no_bit(tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SiameseEncoder, "batch_size", batch_size)
    encoder = build_encoder("tf_efficientnet_lite0", "imagenet", 4, 512, 64)
    encoder.freeze()
    np.save(tmp_path / "shard-00000.npy", photographs(17, 64))
    shards, rows, answers = Shards(tmp_path), np.arange(17), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            pooled = pool_rows(encoder, shards, rows)
            assert not pooled.requires_grad
            answers.append((embed_rows(encoder, shards, rows, 8).tobytes(), pooled.numpy().tobytes()))
    finally:
        torch.set_num_threads(1)
    assert answers[0] == answers[1] == answers[2]


def test_shards_of_another_size_than_the_encoder_takes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "shard-00000.npy", photographs(5, 16))
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    with pytest.raises(DataError, match=rf"{tmp_path}: images of 16 px, the model takes 32; run 'dvc repro'"):
        embed_rows(encoder, Shards(tmp_path), np.arange(5))


@pytest.mark.parametrize("batch_size", [3, 1000])  # fewer than the orientations of one image, and more than all
def test_pooled_features_of_eight_orientations_are_their_mean_and_come_in_order(
    tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SiameseEncoder, "batch_size", batch_size)
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32).eval()
    images = photographs(5, 32)
    np.save(tmp_path / "shard-00000.npy", images)
    shards = Shards(tmp_path)
    ways = [np.rot90(held, turns, (1, 2)) for held in (images, images[:, :, ::-1]) for turns in range(4)]
    with torch.inference_mode():
        expected = torch.stack([encoder.features(torch.from_numpy(way.copy())) for way in ways]).mean(dim=0)
    encoder.train()  # as between two epochs
    rows = np.array([4, 0, 3])
    np.testing.assert_allclose(pool_rows(encoder, shards, rows, 8), expected[rows], atol=1e-5)
    by_row = pool_rows(encoder, shards, rows, 8, by_row=True)
    np.testing.assert_allclose(by_row[rows], expected[rows], atol=1e-5)
    others = np.setdiff1d(np.arange(len(shards)), rows)
    assert len(others) and not by_row[others].any()
    np.testing.assert_allclose(embed_rows(encoder, shards, rows, 8), embed(encoder, [images[rows]], 8), atol=1e-5)
