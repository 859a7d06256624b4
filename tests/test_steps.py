import numpy as np
import pandas as pd
import pytest
import torch

from isic_siamese.pairs import COLUMNS
from isic_siamese.steps import cut_steps


def test_a_pair_index_in_any_order_trains_on_the_same_pairs() -> None:
    pairs = pd.DataFrame([[0, 5, 9, 2, 0, 0], [1, 5, 7, 0, 0, 1], [0, 9, 5, 0, 1, 0]], columns=COLUMNS)
    first, second = cut_steps(pairs, np.arange(10) == 9, torch.device("cpu"))
    assert first.rows.tolist() == [9, 5, 5] and first.n_plain == 1  # copies come last
    assert first.malignant.tolist() == [True, False, False]
    assert first.weights.tolist() == [[0, 0.5, 0], [0, 0, 0], [0.5, 0, 0]] and not first.same.any()
    assert second.rows.tolist() == [5, 7]
    assert second.weights.tolist() == [[0, 1], [0, 0]] and second.same[0, 1]


def test_a_pair_that_is_there_twice_weighs_twice_as_much() -> None:
    pairs = pd.DataFrame([[0, 5, 9, 0, 0, 0], [0, 5, 7, 0, 0, 1], [0, 5, 9, 0, 0, 0]], columns=COLUMNS)
    (step,) = cut_steps(pairs, np.arange(10) == 9, torch.device("cpu"))
    assert step.weights[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
