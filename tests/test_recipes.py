from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.recipes import OURS, ask_a_head, recipes, vote_by_margin
from isic_siamese.arrays import Bools, Embeddings, Floats
from isic_siamese.params import Params
from stages.crossvalidate import read_recipe


def circle(degrees: list[float]) -> Embeddings:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def slow_vote(asked: Embeddings, references: Embeddings, malignant: Bools, margin: float) -> Floats:
    shares = []
    for one in asked:
        votes = [
            bool(melanoma) if np.linalg.norm(one - reference) < margin else not melanoma
            for reference, melanoma in zip(references, malignant, strict=True)
        ]
        shares.append(sum(votes) / len(votes))
    return np.array(shares)


def test_a_reference_within_the_margin_votes_for_its_class_and_any_other_against_it() -> None:
    references, malignant = circle([0, 10, 180, 200]), np.array([True, True, False, False])
    assert vote_by_margin(circle([5, 190, 90]), references, malignant, 0.5).tolist() == [1, 0, 0.5]


def test_the_vote_by_margin_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    asked, references = (rng.normal(size=(n, 8)).astype(np.float32) for n in (300, 50))
    asked, references = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (asked, references))
    malignant = rng.random(50) < 0.3
    expected = slow_vote(asked, references, malignant, 1.2)
    np.testing.assert_allclose(vote_by_margin(asked, references, malignant, 1.2), expected)
    assert len(np.unique(expected)) > 5


def test_a_head_learns_what_the_frozen_embeddings_tell_apart_and_answers_the_same_twice() -> None:
    rng = np.random.default_rng(0)
    malignant = rng.random(400) < 0.5
    embeddings = (rng.normal(size=(400, 8)) + 2 * malignant[:, None]).astype(np.float32)
    ask = partial(ask_a_head, embeddings[200:], embeddings[:200], malignant[:200])
    assert roc_auc_score(malignant[200:], ask()) > 0.95
    assert np.array_equal(ask(), ask())


@pytest.mark.parametrize("name", ["triplet, frozen head", "contrastive, majority vote"])
def test_a_rival_shares_the_encoder_and_the_pairs_with_ours(name: str) -> None:
    ours = read_recipe(Params())
    rival = recipes(ours)[name]
    learning = ("loss", "cross_entropy_weight", "frozen_groups", "epochs", "learning_rate", "embedding_dim")
    same = {key: getattr(ours.train, key) for key in learning}
    assert rival.train.model_copy(update=same) == ours.train
    assert rival.pairs == ours.pairs and rival.score is not None and recipes(ours)[OURS] is ours
