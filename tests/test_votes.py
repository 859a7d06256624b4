from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import ThreadpoolController

from isic_siamese import votes
from isic_siamese.arrays import Bools, Embeddings
from isic_siamese.votes import Votes, fit_votes, read_votes, vote_scores, write_votes


def unit(rng: np.random.Generator, n: int, dim: int = 8) -> Embeddings:
    points = rng.normal(size=(n, dim)).astype(np.float32)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def clusters(n: int, seed: int = 0) -> tuple[Embeddings, Bools]:
    """Melanomas in two of four places on a circle, so that no line parts them from the benign ones."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 4, n)
    angle = place * np.pi / 2 + rng.normal(0, 0.3, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32), place % 2 == 0


def test_a_score_is_the_sum_of_the_voices_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    images, references = unit(rng, 5), unit(rng, 9)
    learned = Votes(rng.normal(size=9), 0.3, 0.2)
    for image, score in zip(images, learned.scores(images, references), strict=True):
        voices = [np.exp(-(np.linalg.norm(image - one) ** 2) / (2 * 0.2)) for one in references]
        assert score == pytest.approx(0.3 + sum(learned.weights * voices), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_scores_are_the_same_for_any_chunk_and_one_image_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    images, references = unit(rng, 7), unit(rng, 20)
    learned = Votes(rng.normal(size=20), 0.0, 0.1)
    expected = [learned.scores(image[None], references)[0] for image in images]
    monkeypatch.setattr(votes, "CHUNK", chunk)
    np.testing.assert_allclose(learned.scores(images, references), expected, rtol=1e-12)


def test_votes_minimise_the_loss_that_is_written_down() -> None:
    references, malignant = clusters(40)
    malignant[:12] = False  # so that the classes are not equally frequent
    kernel = RBF(np.sqrt(0.1))(references.astype(np.float64))  # of scikit-learn; its length scale is a deviation
    share = np.where(malignant, 1, malignant.sum() / (~malignant).sum())
    sign = np.where(malignant, 1, -1)

    def loss(unknowns: np.ndarray) -> float:
        scores = kernel @ unknowns[:-1] + unknowns[-1]
        return float(
            (share * np.logaddexp(0, -sign * scores)).sum() + 0.25 * unknowns[:-1] @ kernel @ unknowns[:-1] / 2
        )

    best = minimize(loss, np.zeros(41), method="BFGS", options={"gtol": 1e-8, "maxiter": 5000})
    learned = fit_votes(references, malignant, temperature=0.1, penalty=0.25)
    assert loss(np.append(learned.weights, learned.intercept)) == pytest.approx(best.fun, rel=1e-5)
    expected = kernel @ best.x[:-1] + best.x[-1]
    np.testing.assert_allclose(learned.scores(references, references), expected, atol=0.01)


def test_votes_tell_apart_what_no_line_does() -> None:
    learned = fit_votes(*clusters(200), 0.2, 0.1)
    asked, malignant = clusters(200, seed=1)
    scores = learned.scores(asked, clusters(200)[0])
    assert roc_auc_score(malignant, scores) > 0.95
    np.testing.assert_array_equal(vote_scores(asked, *clusters(200), 0.2, 0.1), scores)


def test_repeating_the_benign_references_changes_no_score() -> None:
    references, malignant = clusters(60)
    malignant[:12] = False
    rare = np.concatenate([references, *[references[~malignant]] * 9])
    labels = np.concatenate([malignant, np.zeros(len(rare) - 60, bool)])
    one, ten = fit_votes(references, malignant, 0.1, 0.1), fit_votes(rare, labels, 0.1, 0.1)
    np.testing.assert_allclose(ten.scores(references, rare), one.scores(references, references), atol=1e-3)


def test_equal_references_do_no_harm() -> None:
    references, malignant = clusters(30)
    learned = fit_votes(np.repeat(references, 2, axis=0), np.repeat(malignant, 2), 0.1, 0.1)
    assert np.isfinite(learned.weights).all() and np.abs(learned.weights).max() < 100


@pytest.mark.parametrize(("n_melanoma", "n_benign", "expected"), [(3, 5, (3, 5)), (3, 50, (3, 17)), (40, 50, (10, 10))])
def test_of_many_references_the_rarer_class_has_all_its_votes(
    n_melanoma: int, n_benign: int, expected: tuple[int, int]
) -> None:
    malignant = np.random.default_rng(0).permutation(np.arange(n_melanoma + n_benign) < n_melanoma)
    picked = votes._spread(malignant, 20)
    assert (int(malignant[picked].sum()), int((~malignant[picked]).sum())) == expected
    assert (np.diff(picked) > 0).all()


def test_few_voters_answer_as_all_do_and_what_is_learned_from_half_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references, malignant = clusters(400)
    asked = clusters(50, seed=2)[0]
    scores = [fit_votes(references, malignant).scores(asked, references)]
    for name, n in (("VOTERS", 100), ("LEARNED", 200)):
        monkeypatch.setattr(votes, name, n)
        learned = fit_votes(references, malignant)
        voters = np.flatnonzero(learned.weights)
        assert (len(voters), malignant[voters].sum(), *voters[[0, -1]]) == (100, 50, 0, 399)
        scores.append(learned.scores(asked, references))
    np.testing.assert_allclose(scores[1], scores[0], atol=0.05)
    assert np.corrcoef(scores[2], scores[0])[0, 1] > 0.98


@pytest.mark.parametrize(("threads", "voters", "used"), [(6, 29, 4), (3, 29, 3), (3, 30, 1)])
def test_learning_takes_few_threads_and_gives_back_the_others(
    threads: int, voters: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes, "VOTERS", voters)
    matrices = ThreadpoolController().select(user_api="blas")
    seen: list[set[int]] = []
    fit = LogisticRegression.fit

    def counting(*args: object, **options: object) -> object:
        seen.append({library.num_threads for library in matrices.lib_controllers})
        return fit(*args, **options)

    monkeypatch.setattr(LogisticRegression, "fit", counting)
    with matrices.limit(limits=threads):
        fit_votes(*clusters(30))
        assert {library.num_threads for library in matrices.lib_controllers} == {threads}
    assert seen == [{used}]


@pytest.mark.parametrize("n", [39, 273, 725])
def test_the_number_of_threads_changes_no_bit_of_votes_of_few_references(n: int) -> None:
    rng = np.random.default_rng(n)
    references, asked, malignant = unit(rng, n, 512), unit(rng, n // 3, 512), np.arange(n) % 3 == 0
    scores = []
    for threads in (1, 2, 5):
        with ThreadpoolController().limit(limits=threads):
            scores.append(vote_scores(asked, references, malignant).tobytes())
    assert scores[0] == scores[1] == scores[2]


def test_references_of_one_class_and_missing_labels_are_refused() -> None:
    points = unit(np.random.default_rng(0), 3)
    for labels in (np.zeros(3, bool), np.ones(3, bool), np.array([True, False])):
        with pytest.raises(ValueError, match="both classes"):
            fit_votes(points, labels, 0.1, 0.1)


def test_other_references_than_those_that_vote_are_refused() -> None:
    points = unit(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match="wanted the 2 references that vote, got 3"):
        Votes(np.ones(2), 0.0, 0.1).scores(points, points)


def test_votes_read_back_as_they_were_written(tmp_path: Path) -> None:
    learned = fit_votes(*clusters(20), 0.1, 0.1)
    write_votes(tmp_path, learned)
    again = read_votes(tmp_path)
    np.testing.assert_array_equal(again.weights, learned.weights)
    assert (again.intercept, again.temperature) == (learned.intercept, learned.temperature)


def test_images_are_cut_into_parts_whose_distances_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "CHUNK", 40)
    rng = np.random.default_rng(0)
    images, references = unit(rng, 7), unit(rng, 20)
    parts = votes.in_chunks(images, references)
    assert max(len(part) * len(references) for part in parts) == 40
    np.testing.assert_array_equal(np.concatenate(parts), images)
