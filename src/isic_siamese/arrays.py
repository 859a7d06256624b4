"""The arrays that modules pass to one another, by name."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Embeddings = npt.NDArray[np.float32]  # (N, D), each row of unit length


def as_bools(values: npt.ArrayLike) -> Bools:
    """Return labels as bools: of numbers 0 and 1, numpy's `~` would make -1 and -2, and an index would take places.

    Raises:
        ValueError: there is something else than False and True, or 0 and 1.

    >>> ~as_bools([0, 1, 1])
    array([ True, False, False])
    """
    given = np.asarray(values)
    if not np.isin(given, (0, 1)).all():
        raise ValueError(f"wanted labels False and True, or 0 and 1, got {given.dtype} {np.unique(given)[:5]}")
    return given.astype(np.bool_)


def as_scores(values: npt.ArrayLike) -> Floats:
    """Return scores as numbers, in their own order, whatever the index of a pandas Series.

    Raises:
        ValueError: one of them is not finite.
    """
    given = np.asarray(values, np.float64)
    if not np.isfinite(given).all():
        raise ValueError(f"wanted scores that are finite, got {np.count_nonzero(~np.isfinite(given))} that are not")
    return given


def as_labelled(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Return `as_scores(scores)` and `as_bools(labels)`.

    Raises:
        ValueError: as those two do, or there are not as many of both.
    """
    of_score, of_label = as_scores(scores), as_bools(labels)
    if of_score.shape != of_label.shape:  # an index of too many labels would leave out the last ones, silently
        raise ValueError(f"wanted a label for each score, got labels {of_label.shape} for scores {of_score.shape}")
    return of_score, of_label
