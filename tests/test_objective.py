import pytest
import torch

from isic_siamese.losses import supervised_contrastive_loss, triplet_loss
from isic_siamese.objective import Objective
from isic_siamese.steps import cut_steps
from isic_siamese.training_data import TrainingData
from tests.toy import PARAMS, make_trainer


def test_a_loss_over_all_views_is_the_one_that_is_named(data: TrainingData) -> None:
    (step, *_) = cut_steps(data.pairs, data.malignant, torch.device("cpu"))
    embeddings = torch.nn.functional.normalize(torch.randn(len(step.rows), 8), dim=1)

    def loss(name: str) -> torch.Tensor:
        cost: torch.Tensor = Objective(PARAMS.model_copy(update={"loss": name}), 0.3)(embeddings, step)
        return cost

    assert loss("triplet") == triplet_loss(embeddings, step.malignant, 0.3)
    assert loss("supervised_contrastive") == supervised_contrastive_loss(embeddings, step.malignant)


def test_cross_entropy_is_added_to_a_loss_over_pairs_by_its_weight_and_to_itself_never(data: TrainingData) -> None:
    def first_loss(weight: float, loss: str = "contrastive") -> float:
        return next(make_trainer(data, loss=loss, cross_entropy_weight=weight).run_steps(0, [0])).item()

    weights = (0.0, 0.5, 2.0)
    beside = [first_loss(weight) for weight in weights]
    alone = [first_loss(weight, "cross_entropy") for weight in weights]
    assert alone[0] == alone[1] == alone[2] > 0.1
    assert beside == pytest.approx([beside[0] + weight * alone[0] for weight in weights], rel=1e-5)


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "supervised_contrastive", "cross_entropy"])
def test_every_loss_goes_down_on_a_step_that_is_repeated(data: TrainingData, loss: str) -> None:
    run = make_trainer(data, loss=loss, warmup_epochs=0.0)
    losses = [loss.item() for loss in run.run_steps(0, 8 * [0])]
    assert losses[-1] < losses[0]
