"""The files of a trained model: its weights, and what it takes to build the network again."""

import hashlib
import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from isic_siamese.batch_norm import fold_as_in
from isic_siamese.devices import pick_device
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.errors import DataError
from isic_siamese.files import replacing, write_json


def write_model(folder: Path, encoder: SiameseEncoder, margin: float | None = None) -> None:
    """Write `model.safetensors` and `model.json` (what it takes to build the network again) into `folder`.

    `margin` is that of the contrastive loss it was trained with, if it was.

    Batch normalisation is folded into the convolutions, because a model that is written learns no more.
    """
    frozen = deepcopy(encoder)
    frozen.freeze()
    state = {name: tensor.contiguous().cpu() for name, tensor in frozen.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(state))  # not save_file, which would not say that the disk is full
    facts = {
        "encoder": encoder.name,
        "stages": encoder.stages,
        "embedding_dim": encoder.embedding_dim,
        "image_px": encoder.image_px,
        "mean": encoder.mean,
        "std": encoder.std,
        "margin": margin,
    }
    write_json(folder / "model.json", facts)


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of the weights in `folder`, by which what was made with a model knows it again.

    Raises:
        DataError: there are none.
    """
    try:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run 'dvc repro train' or 'dvc pull'") from None


def read_margin(folder: Path) -> float | None:
    """Return the margin of the contrastive loss that the model in `folder` was trained with, if it was.

    Raises:
        DataError: there is no model.
    """
    try:
        margin: float | None = json.loads((folder / "model.json").read_text(encoding="utf-8"))["margin"]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run 'dvc repro train' or 'dvc pull'") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a model of this project: {error}; run 'dvc repro -f train'") from None
    return margin


def read_model(folder: Path, device: torch.device | None = None) -> SiameseEncoder:
    """Read what `write_model` wrote, onto `device` (by default the best one there is), ready to embed.

    Raises:
        DataError: a file is absent or does not belong to the other.
    """
    try:
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        encoder = SiameseEncoder(facts["encoder"], facts["stages"], facts["embedding_dim"], facts["image_px"])
        state = load_file(folder / "model.safetensors")
        fold_as_in(encoder, state)
        encoder.load_state_dict(state)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run 'dvc repro train' or 'dvc pull'") from None
    except (TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: not a model of this project: {error}; run 'dvc repro -f train'") from None
    return encoder.to(device or pick_device()).eval()
