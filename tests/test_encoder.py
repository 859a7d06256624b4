from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from isic_siamese.embedding import embed
from isic_siamese.encoder import BUNDLED_ENCODER, build_encoder
from isic_siamese.errors import ParamsError
from isic_siamese.pooling import STATISTICS, lesion_regions, pool_regions
from tests.toy import forget_constants


def photographs(n: int, px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def test_pixels_are_normalised_with_the_mean_and_deviation_of_the_encoder() -> None:
    encoder = build_encoder("resnet18", "none", 3, 4, 32)
    seen: list[torch.Tensor] = []
    encoder.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = photographs(1, 32)
    embed(encoder, [image])
    expected = (image[0] / 255 - np.array(encoder.mean)) / np.array(encoder.std)
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_the_bundled_weights_are_those_of_imagenet() -> None:
    torch.manual_seed(0)
    pretrained = build_encoder(BUNDLED_ENCODER, "imagenet", 4, 8, 64).backbone.state_dict()
    random = build_encoder(BUNDLED_ENCODER, "none", 4, 8, 64).backbone.state_dict()
    assert pretrained.keys() == random.keys()
    assert pretrained["bn1.running_var"].std() > 0.1  # a random network has ones
    assert not torch.equal(pretrained["conv_stem.weight"], random["conv_stem.weight"])


def test_an_unknown_encoder_is_refused_with_names_near_it() -> None:
    with pytest.raises(ParamsError, match=r"train.encoder: timm [\d.]+ has no model 'resnet19'; near it: .*resnet"):
        build_encoder("resnet19", "none", 3, 8, 32)


default_cfgs = generate_default_cfgs({"own_net": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}})


@register_model
def own_net(pretrained: bool = False, **options: Any) -> Any:
    return build_model_with_cfg(ResNet, "own_net", pretrained, block=BasicBlock, layers=(1, 1, 1, 1), **options)


@register_model
def bare_net(**_: object) -> nn.Module:
    return nn.Conv2d(3, 8, 1)


def test_an_own_encoder_is_used_as_any_of_timm() -> None:
    encoder = build_encoder("own_net", "none", 2, 8, 32)
    assert encoder(torch.from_numpy(photographs(2, 32))).shape == (2, 8)
    encoder.freeze(1)
    assert not encoder.backbone.conv1.weight.requires_grad and encoder.learns_features
    with pytest.raises(ParamsError, match="timm has no weights at hand for own_net"):
        build_encoder("own_net", "timm", 2, 8, 32)


def test_an_encoder_whose_groups_cannot_be_counted_can_be_frozen_as_a_whole_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = build_encoder("own_net", "none", 2, 8, 32)
    monkeypatch.delattr(ResNet, "group_matcher")
    with pytest.raises(
        ParamsError, match=r"train\.frozen_groups: own_net has no group_matcher to count .*; set all, or 0"
    ):
        encoder.freeze(1)
    encoder.freeze()
    assert not encoder.learns_features


def test_standardised_features_are_in_units_of_their_deviation_and_stages_weigh_the_same() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    features = torch.from_numpy(np.random.default_rng(0).normal(5, 3, (400, len(encoder.centre)))).float()
    features[:, 0] = 7  # one that says nothing
    encoder.standardise(features)
    standardised = encoder.standardised(features)
    assert standardised[:, 0].eq(0).all()
    torch.testing.assert_close(
        standardised[:, 1:].mean(dim=0), torch.zeros(standardised.shape[1] - 1), atol=1e-4, rtol=0
    )
    channels = [info["num_chs"] for info in encoder.backbone.feature_info][:3]
    weights = [1 / np.sqrt(3 * STATISTICS * n) for n in channels for _ in range(STATISTICS * n)]
    np.testing.assert_allclose(standardised.std(dim=0)[1:], weights[1:], rtol=1e-4)


def test_an_encoder_without_the_interface_of_timm_is_told_what_it_lacks() -> None:
    with pytest.raises(ParamsError, match=r"bare_net, which has no feature_info, no forward_intermediates, no prune"):
        build_encoder("bare_net", "none", 1, 8, 32)


def test_an_encoder_that_takes_no_images_of_the_size_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"train.encoder: hiera_tiny_224 takes no images of 100 px: .*; take another"):
        build_encoder("hiera_tiny_224", "none", 1, 8, 100)


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_transformer_is_made_for_the_size_of_the_images(name: str) -> None:
    encoder = build_encoder(name, "none", 2, 8, 64)
    assert encoder.features(torch.from_numpy(photographs(2, 64))).shape == (2, len(encoder.centre))


def test_imagenet_weights_of_another_encoder_are_refused_because_nothing_is_fetched() -> None:
    with pytest.raises(ParamsError, match=r"imagenet is for tf_efficientnet_lite0 alone, .*; for resnet18 set timm"):
        build_encoder("resnet18", "imagenet", 3, 8, 32)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of the Hugging Face hub, which is out of reach, as `HF_HUB_CACHE` and `HF_HUB_OFFLINE`."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_that_timm_fetches_are_those_of_the_backbone(hub: Path, name: str) -> None:
    fetched = timm.create_model(name).state_dict()
    snapshot = hub / f"models--timm--{name}.r160_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    save_file(fetched, snapshot / "model.safetensors")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    built = build_encoder(name, "timm", 2, 8, 64).backbone.state_dict()
    assert len(built) > 20
    for key in built.keys() - {"pos_embed"}:  # which timm scales to the size of the images
        assert torch.equal(built[key], fetched[key]), key


@pytest.mark.usefixtures("hub")
def test_weights_that_cannot_be_fetched_are_named_with_what_to_do() -> None:
    with pytest.raises(
        ParamsError,
        match=r"train\.weights: timm has no weights at hand for test_resnet: (?s:.*)"
        "It fetches them once, from the Hugging Face hub",
    ):
        build_encoder("test_resnet", "timm", 2, 8, 64)


def test_an_unknown_tag_is_no_matter_of_size() -> None:
    with pytest.raises(ParamsError, match=r"train\.encoder: Invalid pretrained tag \(nope\) for resnet18\. See timm"):
        build_encoder("resnet18.nope", "none", 3, 8, 32)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_is_exported_for_any_number_of_images_and_goes_on_working(frozen: bool) -> None:
    forget_constants()  # as in a process that has embedded nothing yet
    encoder = build_encoder(BUNDLED_ENCODER, "none", 2, 8, 32)
    if frozen:
        encoder.freeze()
    encoder.eval()
    two, five = (torch.from_numpy(photographs(n, 32)) for n in (2, 5))
    with torch.no_grad():
        exported = torch.export.export(encoder, (two,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
        assert torch.equal(exported(five), encoder(five))


@pytest.mark.parametrize(("image_px", "n_images"), [(64, 64), (128, 16), (256, 4), (1024, 1)])
def test_as_many_pixels_go_through_at_once_whatever_the_size_of_an_image(image_px: int, n_images: int) -> None:
    assert build_encoder("test_efficientnet", "none", 3, 8, image_px).batch_size == n_images


def test_frozen_layer_groups_keep_their_weights_and_statistics_while_the_others_learn() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    encoder.freeze(2)
    encoder.train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([weight for weight in encoder.parameters() if weight.requires_grad], lr=0.1)
    encoder(images)[:, 0].sum().backward()
    optimizer.step()
    changed = {name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])}
    first = ("backbone.conv_stem.", "backbone.bn1.", "backbone.blocks.0.")
    assert changed and not any(name.startswith(first) for name in changed)
    assert {"backbone.blocks.1.0.bn1.running_mean", "backbone.blocks.1.0.conv_exp.weight", "head.weight"} <= changed


def test_all_features_of_a_stage_together_weigh_as_much_as_those_of_any_other() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    channels = [stage["num_chs"] for stage in encoder.backbone.feature_info[:3]]
    assert len(set(channels)) == 3
    of_stages = torch.split(encoder.weight.square(), [STATISTICS * n for n in channels])
    assert [float(weights.sum()) for weights in of_stages] == pytest.approx([1 / 3] * 3)


def test_regions_are_pooled_in_float32_whatever_the_precision_of_the_maps() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32).eval()
    images = torch.from_numpy(photographs(4, 32))
    pixels = images.permute(0, 3, 1, 2).float() * encoder.scale - encoder.offset
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = encoder.features(images)
        maps = encoder.backbone.forward_intermediates(pixels, indices=[0, 1, 2], intermediates_only=True)
    assert maps[0].dtype == torch.bfloat16
    expected = torch.cat([pool_regions(stage.float(), lesion_regions(images)) for stage in maps], dim=1)
    assert torch.equal(features, expected)


def test_an_encoder_that_counts_its_layer_groups_in_another_way_is_frozen_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RDNet of timm refuses so."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("coarse grouping is not implemented")

    encoder = build_encoder("own_net", "none", 2, 8, 32)
    monkeypatch.setattr(ResNet, "group_matcher", refuse)
    with pytest.raises(ParamsError, match=r"layer groups of own_net cannot be counted: coarse .*; set all, or 0"):
        encoder.freeze(1)


def test_more_frozen_groups_than_there_are_is_refused() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    with pytest.raises(ParamsError, match=r"train.frozen_groups: test_efficientnet has \d+ layer groups, got 99"):
        encoder.freeze(99)
