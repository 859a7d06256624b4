"""The files of a trained model: its weights, and what it takes to build the network again."""

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from isic_siamese.batch_norm import fold_as_in
from isic_siamese.checksums import checksum
from isic_siamese.devices import pick_device
from isic_siamese.encoder import SiameseEncoder
from isic_siamese.errors import ParamsError, explaining
from isic_siamese.files import forget_temporaries, read_json, replacing, write_json
from isic_siamese.params import Count
from isic_siamese.shards_params import Fit

BROKEN = "not a model of this project", "train", (ValueError, KeyError, RuntimeError, SafetensorError, ParamsError)


@dataclass(frozen=True)
class ModelFacts:
    """What stands in `model.json`: what it takes to build the network again, and to show it images as in training.

    Attributes:
        encoder: its name in timm.
        stages: of it that are used.
        embedding_dim: length of an embedding.
        image_px: side of an image, pixels.
        fit: how an image that was not square was made square.
        mean: by which pixels in [0, 1] are normalised, red, green and blue.
        std: likewise.
        margin: of the contrastive loss that it was trained with, if it was.
        seen: SHA-256 of the images that it was trained and chosen on (`splits.seen_images`).
        sha256: of `model.safetensors`.
    """

    encoder: str
    stages: Count
    embedding_dim: Count
    image_px: Count
    fit: Fit
    mean: list[float]
    std: list[float]
    margin: float | None
    seen: str
    sha256: str


def write_model(folder: Path, encoder: SiameseEncoder, fit: Fit, margin: float | None = None, seen: str = "") -> None:
    """Write `model.safetensors`, and `model.json` with its `ModelFacts`, into `folder`.

    Batch normalisation is folded into the convolutions, because a model that is written learns no more.
    """
    frozen = deepcopy(encoder)
    frozen.freeze()
    # A copy of each, because some encoders hold one tensor by several names, which safetensors refuses.
    state = {name: tensor.contiguous().cpu().clone() for name, tensor in frozen.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(save(state))  # not save_file, which would not say that the disk is full
    facts = ModelFacts(
        encoder=encoder.name,
        stages=encoder.stages,
        embedding_dim=encoder.embedding_dim,
        image_px=encoder.image_px,
        fit=fit,
        mean=list(encoder.mean),
        std=list(encoder.std),
        margin=margin,
        seen=seen,
        sha256=checksum(folder / "model.safetensors"),
    )
    write_json(folder / "model.json", asdict(facts))
    forget_temporaries(folder)


def read_model(folder: Path) -> tuple[SiameseEncoder, ModelFacts]:
    """Read what `write_model` wrote: the network, on the best device there is and ready to embed, and its facts.

    Raises:
        DataError: a file is absent, is something else or does not belong to the other.
    """
    with explaining(folder, *BROKEN):
        facts = read_json(folder / "model.json", ModelFacts)
        if checksum(folder / "model.safetensors") != facts.sha256:
            raise ValueError("model.safetensors is not the file that model.json describes")
        encoder = SiameseEncoder(facts.encoder, facts.stages, facts.embedding_dim, facts.image_px)
        state = load_file(folder / "model.safetensors")
        fold_as_in(encoder, state)
        encoder.load_state_dict(state)
    return encoder.to(pick_device()).eval(), facts
