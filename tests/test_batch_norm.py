from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from isic_siamese.batch_norm import fold_batch_norm
from isic_siamese.embedding import embed
from isic_siamese.encoder import BUNDLED_ENCODER, SiameseEncoder, build_encoder
from isic_siamese.model_files import read_model, write_model


def randomise(network: nn.Module) -> None:
    """Give each batch normalisation weights and statistics that change something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5


def n_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


@pytest.mark.parametrize(
    "name", [BUNDLED_ENCODER, "resnet18", "mobilenetv3_small_050", "regnetx_002", "densenet121", "resnetv2_18"]
)
def test_the_function_of_any_encoder_stays_as_it_is_when_folded_and_when_read_again(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = SiameseEncoder(name, 3, 8, 64).eval()
    randomise(encoder.backbone)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    n_before = n_norms(encoder)
    with torch.no_grad():
        before = encoder.features(images)
        encoder.freeze()
        assert n_norms(encoder) < n_before
        folded = encoder.features(images)
        torch.testing.assert_close(folded, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
        write_model(tmp_path, encoder, "stretch")
        assert torch.equal(read_model(tmp_path)[0].cpu().features(images), folded)


def test_the_bundled_encoder_keeps_none() -> None:
    encoder = build_encoder(BUNDLED_ENCODER, "imagenet", 4, 8, 64)
    encoder.freeze()
    assert n_norms(encoder) == 0


def test_names_that_suggest_another_order_do_not_mislead() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm_of_second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.second, self.norm_of_first = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            between = torch.relu(self.norm_of_first(self.first(images)))
            normed: torch.Tensor = self.norm_of_second(self.second(between))
            return normed

    torch.manual_seed(0)
    network = Crossed().eval().requires_grad_(False)
    randomise(network)
    images = torch.randn(2, 3, 5, 5)
    before = network(images)
    fold_batch_norm(network, lambda: network(images.requires_grad_()))
    assert n_norms(network) == 0
    torch.testing.assert_close(network(images), before)


def test_a_convolution_that_feeds_something_else_too_is_left_alone() -> None:
    class Skipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.convolution(images)
            summed: torch.Tensor = maps + self.norm(maps)
            return summed

    network = Skipped().eval().requires_grad_(False)
    fold_batch_norm(network, lambda: network(torch.randn(2, 3, 5, 5, requires_grad=True)))
    assert n_norms(network) == 1


def test_what_still_learns_is_left_alone() -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32)
    before = n_norms(encoder)
    encoder.freeze(0)
    assert n_norms(encoder) == before
    encoder.freeze(2)
    assert 0 < n_norms(encoder) < before


def test_a_model_whose_normalisation_was_synchronised_among_gpus_reads_as_any_other(tmp_path: Path) -> None:
    encoder = build_encoder("test_efficientnet", "none", 3, 8, 32).eval()
    randomise(encoder.backbone)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = embed(encoder, [images])
    encoder.backbone = convert_sync_batchnorm(encoder.backbone)  # type: ignore[no-untyped-call]
    write_model(tmp_path, encoder, "stretch")
    found = embed(read_model(tmp_path)[0].cpu(), [images])
    np.testing.assert_allclose(found, expected, atol=1e-5)
