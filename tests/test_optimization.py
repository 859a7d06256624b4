import numpy as np
import pytest

from isic_siamese.encoder import BUNDLED_ENCODER
from isic_siamese.optimization import learning_rate_factor
from isic_siamese.training_data import TrainingData
from tests.toy import make_trainer


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 10, 100) for step in range(100)]
    assert factors.index(max(factors)) in (9, 10) and max(factors) == 1.0
    assert np.all(np.diff(factors[:10]) > 0) and np.all(np.diff(factors[10:]) < 0) and factors[-1] < 0.001


@pytest.mark.parametrize(
    ("encoder", "weights", "share"), [("test_efficientnet", "none", 1), (BUNDLED_ENCODER, "imagenet", 0.1)]
)
def test_every_weight_learns_and_pretrained_ones_at_a_tenth_of_the_rate(
    data: TrainingData, encoder: str, weights: str, share: float
) -> None:
    rate = {"learning_rate": 0.002, "weight_decay": 0.1, "warmup_epochs": 1.5}
    run = make_trainer(data, 0, encoder=encoder, weights=weights, stages=2, **rate)
    rates = {weight: group["initial_lr"] for group in run.optimizer.param_groups for weight in group["params"]}
    decays = {weight: group["weight_decay"] for group in run.optimizer.param_groups for weight in group["params"]}
    assert all(decay == (0.1 if weight.ndim > 1 else 0) for weight, decay in decays.items())
    assert {rates[weight] for weight in run.encoder.backbone.parameters()} == {0.002 * share}
    assert {rates[weight] for part in (run.encoder.head, run.objective) for weight in part.parameters()} == {0.002}
    factors = [run.schedule.lr_lambdas[0](step) for step in range(4 * len(run.steps))]
    assert factors.index(1) + 1 == round(1.5 * len(run.steps))
    assert run.schedule.lr_lambdas[0](4 * len(run.steps)) == 0  # when the four epochs are over, and not before
    assert min(factors) > 0
    next(run.run_steps(0, [0]))
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.002 * factors[1])
