"""The vote of the references: each speaks the louder the nearer it is, with a weight that is learned from their labels.

Kernel logistic regression with a Gaussian of the Siamese distance as its kernel: Zhu and Hastie, "Kernel Logistic
Regression and the Import Vector Machine", J. Comput. Graph. Stat. 14 (2005), doi 10.1198/106186005X25619. A reference
that only repeats its neighbours gets a small vote, one that speaks for a region alone a large one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from isic_siamese.arrays import Bools, Embeddings, Floats, Ints, as_bools
from isic_siamese.files import read_json, write_json, write_npy

TEMPERATURE, PENALTY = 0.1, 0.3  # where no others are given
LEARNED, VOTERS = 8192, 1024  # references, at most, that are learned from, and of these, that have a vote
CHUNK = 4_000_000  # distances held at a time: 32 MB, whatever the size of the release
VOTES_NPY, VOTES_JSON = "votes.npy", "votes.json"
THREADS = 4  # of the matrix library, at most, for more references than voters: with 16 they take longer
SILENT = 1e-4  # standard deviation of scores below which the votes tell nothing apart
JITTER = 1e-6  # on the diagonal of a kernel whose references may be equal


@dataclass(frozen=True)
class Votes:
    """The learned votes of R references.

    Attributes:
        weights: of each reference, float64 `(R,)`; above 0 it speaks for melanoma, and at 0 it has no say.
        intercept: what is said where no reference is near.
        temperature: how far a reference is heard: at the Euclidean distance d its voice is exp(-d^2 / 2 temperature).
    """

    weights: Floats
    intercept: float
    temperature: float

    def scores(self, embeddings: Embeddings, references: Embeddings) -> Floats:
        """Return the log odds of melanoma, were both classes equally frequent, float64 `(N,)`.

        Args:
            embeddings: of the images that are asked about, float32 `(N, D)`, unit length.
            references: float32 `(R, D)`, unit length, in the order of `weights`.

        Raises:
            ValueError: there are not as many references as weights.
        """
        if len(references) != len(self.weights):
            raise ValueError(f"wanted the {len(self.weights)} references that vote, got {len(references)}")
        heard = np.flatnonzero(self.weights)
        voters, weights = references[heard], self.weights[heard]
        with _few_threads(len(references)):
            parts = [_kernel(part, voters, self.temperature) @ weights for part in in_chunks(embeddings, voters)]
        return self.intercept + np.concatenate(parts)


def fit_votes(
    references: Embeddings, malignant: Bools, temperature: float = TEMPERATURE, penalty: float = PENALTY
) -> Votes:
    """Learn the votes of the references from their labels.

    Minimises the logistic loss, in which the larger class weighs as much as the smaller one, plus `penalty` / 2 times
    the squared norm of the score as a function in the kernel's space. Of more than `LEARNED` references that many are
    learned from, and of more than `VOTERS` that many have a vote, so that memory and time do not grow with the release:
    melanomas and benign ones in equal parts, or all that there are of the rarer class.

    Args:
        references: float32 `(R, D)`, unit length.
        malignant: the label of each, bool (or 0 and 1) `(R,)`.
        temperature: of the kernel; see `Votes`.
        penalty: large, all answers draw near to one another; small, each reference is answered as it is labelled.

    Raises:
        ValueError: one of the classes has no reference, or the shapes do not match.

    >>> points = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
    >>> votes = fit_votes(points, np.array([True, False, False]), temperature=0.1, penalty=0.1)
    >>> (votes.scores(points, points) > 0).tolist()
    [True, False, False]
    """
    malignant = as_bools(malignant)
    if len(references) != len(malignant) or malignant.all() or not malignant.any():
        raise ValueError(f"wanted references of both classes and a label for each, got {len(malignant)} labels")
    learned = learned_from(malignant)
    voters = learned[_spread(malignant[learned], VOTERS)]
    labels = malignant[learned]
    n_of_label = np.bincount(labels, minlength=2)
    sample_weight = n_of_label.min() / n_of_label[labels.astype(np.int64)]
    model = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-8, max_iter=100)
    weights = np.zeros(len(references))
    with _few_threads(len(references)):
        among = _kernel(references[voters], references[voters], temperature)
        root = np.linalg.cholesky(among + JITTER * np.eye(len(voters)))
        # In these coordinates of the kernel's space (Nystrom's) the regression is an ordinary linear one.
        features = solve_triangular(root, _kernel(references[voters], references[learned], temperature), lower=True).T
        model.fit(features, labels, sample_weight=sample_weight)
        weights[voters] = solve_triangular(root.T, model.coef_[0])
    return Votes(weights, float(model.intercept_[0]), temperature)


def vote_scores(
    asked: Embeddings,
    references: Embeddings,
    malignant: Bools,
    temperature: float = TEMPERATURE,
    penalty: float = PENALTY,
) -> Floats:
    """Return the scores `(N,)` of `asked` `(N, D)` by votes that are learned from the references; see `fit_votes`."""
    return fit_votes(references, malignant, temperature, penalty).scores(asked, references)


def learned_from(malignant: Bools) -> Ints:
    """Return the positions of the references, with these labels, that votes are learned from, ascending."""
    return _spread(malignant, LEARNED)


@contextmanager
def _few_threads(n_references: int) -> Iterator[None]:
    """Have the matrix library use few threads while the block runs.

    One for at most `VOTERS` references: more are no faster, and the last bits depend on how many they are.
    """
    threads = max((library.num_threads for library in _matrix_library().lib_controllers), default=1)
    with _matrix_library().limit(limits=1 if n_references <= VOTERS else min(threads, THREADS)):
        yield


@cache
def _matrix_library() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _spread(malignant: Bools, most: int) -> Ints:
    """Return the positions of at most so many references, ascending, evenly spread over each class."""
    members = [np.flatnonzero(malignant), np.flatnonzero(~malignant)]
    shares = [min(len(part), max(most // 2, most - len(other))) for part, other in (members, members[::-1])]
    picked = [part[np.linspace(0, len(part) - 1, n).astype(np.int64)] for part, n in zip(members, shares, strict=True)]
    return np.sort(np.concatenate(picked))


def _kernel(embeddings: Embeddings, references: Embeddings, temperature: float) -> Floats:
    """Return exp(-d^2 / 2 temperature) of each image and reference, float64 `(N, R)`; 1 - d^2 / 2 is their cosine."""
    return np.exp((embeddings.astype(np.float64) @ references.astype(np.float64).T - 1) / temperature)


def in_chunks(embeddings: Embeddings, references: Embeddings) -> list[Embeddings]:
    """Cut `embeddings` `(N, D)` into parts whose distances to `references` `(R, D)` are held at a time."""
    return np.array_split(embeddings, 1 + len(embeddings) * len(references) // CHUNK)


def write_votes(folder: Path, votes: Votes) -> None:
    """Write the weights as `votes.npy` and the two numbers beside them as `votes.json`, in full."""
    write_npy(folder / VOTES_NPY, votes.weights)
    numbers = {"intercept": votes.intercept, "temperature": votes.temperature}
    write_json(folder / VOTES_JSON, numbers, rounded=False)


def read_votes(folder: Path) -> Votes:
    """Read what `write_votes` wrote.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError, KeyError, EOFError: it is something else.
    """
    numbers = read_json(folder / VOTES_JSON, dict[str, float])
    return Votes(np.load(folder / VOTES_NPY), numbers["intercept"], numbers["temperature"])
