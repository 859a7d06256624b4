"""What a process finds that trains alone or, as `python -m tests.joint_training <folder>`, together with others."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from isic_siamese import ranks
from isic_siamese.training import train
from tests.toy import draw_data, make_trainer


def train_jointly(folder: Path) -> dict[str, Tensor]:
    """Return losses, gradients, embeddings and buffers, by name; `folder` is for images and checkpoints."""
    found: dict[str, Tensor] = {}
    images = folder / f"images-{ranks.rank()}"
    images.mkdir()
    data = draw_data(images)
    for loss in ("contrastive", "cross_entropy"):
        trainer = make_trainer(data, loss=loss, cross_entropy_weight=0.5)
        trainer.encoder.double().train()  # or what one sees is the rounding of batch normalisation
        found[f"{loss} loss"] = next(trainer.run_steps(0, [0]))
        for part in (trainer.encoder, trainer.objective):
            found |= {f"{loss} {name}": p.grad for name, p in part.named_parameters() if p.grad is not None}
    # LeViT normalises rows of features, not maps.
    rows = make_trainer(data, encoder="levit_128s", stages=2)
    rows.encoder.double().train()
    found["rows loss"] = next(rows.run_steps(0, [0]))
    found |= {f"rows {name}": p.grad for name, p in rows.encoder.named_parameters() if p.grad is not None}
    found |= {f"rows {name}": buffer for name, buffer in rows.encoder.named_buffers()}
    trained = train(make_trainer(data, epochs=2, learning_rate=1e-3), folder / "checkpoints", lambda _: None)
    found["losses"] = torch.tensor(trained.history["loss"])
    frozen = make_trainer(data, epochs=2, frozen_groups="all")  # a process then pools a share of images and copies
    frozen.ahead = 3
    found["frozen losses"] = torch.tensor(train(frozen, folder / "checkpoints", lambda _: None).history["loss"])
    halved = make_trainer(data, epochs=1, precision="bfloat16")
    found["bfloat16 losses"] = torch.tensor(train(halved, folder / "checkpoints", lambda _: None).history["loss"])
    found["embeddings"] = torch.from_numpy(trained.best)
    found |= {f"buffer {name}": buffer for name, buffer in trained.encoder.named_buffers()}
    return found


if __name__ == "__main__":
    with ranks.joined():
        torch.save(train_jointly(Path(sys.argv[1])), Path(sys.argv[1]) / f"found-{ranks.rank()}.pt")
