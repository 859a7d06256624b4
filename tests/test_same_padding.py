from copy import deepcopy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from isic_siamese.encoder import SiameseEncoder
from isic_siamese.same_padding import LeanConv2dSame, use_lean_same_padding
from tests.test_relu6 import kept_bytes


def depthwise(kernel: int, stride: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), Conv2dSame(8, 8, kernel, stride, groups=8))


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 16), (15, 18), (1, 2)])
def test_outputs_and_gradients_are_those_of_timm(kernel: int, stride: int, size: tuple[int, int]) -> None:
    timms = depthwise(kernel, stride)
    lean = deepcopy(timms)
    use_lean_same_padding(lean)
    assert isinstance(lean[1], LeanConv2dSame) and list(lean.state_dict()) == list(timms.state_dict())
    images = torch.randn(2, 3, *size)
    expected, found = timms(images), lean(images)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    for wanted, got in zip(timms.parameters(), lean.parameters(), strict=True):
        assert wanted.grad is not None and wanted.grad.any()
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-4)


def test_no_padded_copy_is_kept_for_the_gradient() -> None:
    timms = depthwise(3, 2)
    lean = deepcopy(timms)
    use_lean_same_padding(lean)
    images = torch.randn(4, 3, 64, 64)
    copy = 4 * 4 * 8 * 65**2
    kernels = 4 * 8 * (4**2 - 3**2)
    unpadded = 4 * 4 * 8 * 64**2  # which timm's layer does not need once it has the copy
    assert kept_bytes(timms, images) - kept_bytes(lean, images) == copy - unpadded - kernels


def test_of_the_bundled_encoder_the_first_layer_alone_makes_a_copy() -> None:
    encoder = SiameseEncoder("tf_efficientnet_lite0", 4, 8, 32)
    padded = [name for name, module in encoder.backbone.named_modules() if isinstance(module, Conv2dSame)]
    lean = [name for name, module in encoder.backbone.named_modules() if isinstance(module, LeanConv2dSame)]
    assert padded == ["conv_stem", *lean] and len(lean) == 3
