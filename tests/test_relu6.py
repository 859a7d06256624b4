import torch
from torch import nn

from isic_siamese.encoder import SiameseEncoder
from isic_siamese.relu6 import LeanReLU6, use_lean_relu6


def kept_bytes(network: nn.Module, images: torch.Tensor) -> int:
    """Return how much memory a forward pass keeps for the gradient."""
    storages = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _ = network(images)
    return sum(n_bytes for _, n_bytes in storages.values())


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
    return nn.Sequential(*layers, nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU6(inplace=True)), nn.Conv2d(8, 1, 3))


def test_outputs_and_gradients_are_those_of_torch_to_the_bit_in_less_memory() -> None:
    torchs, lean = small_network(), small_network()
    use_lean_relu6(lean)
    assert isinstance(lean[2], LeanReLU6) and not any(isinstance(module, nn.ReLU6) for module in lean.modules())
    images = 20 * torch.randn(4, 3, 16, 16)
    for network in (torchs, lean):
        network(images).square().sum().backward()
    for expected, found in zip(torchs.parameters(), lean.parameters(), strict=True):
        assert expected.grad is not None and found.grad is not None and expected.grad.any()
        assert torch.equal(expected.grad, found.grad)
    copies = 4 * 4 * 8 * (14**2 + 12**2)  # of the maps that go into the two layers
    assert kept_bytes(torchs, images) - kept_bytes(lean, images) == copies


def test_the_edges_of_the_clamp_pass_no_gradient() -> None:
    values = torch.tensor([-1.0, 0.0, 1e-6, 3.0, 6.0, 7.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LeanReLU6()(values * 1).sum(), values)
    assert gradient.tolist() == [0, 0, 1, 1, 0, 0]


def test_the_bundled_encoder_has_no_other() -> None:
    modules = list(SiameseEncoder("tf_efficientnet_lite0", 4, 8, 32).backbone.modules())
    assert sum(isinstance(module, LeanReLU6) for module in modules) > 10
    assert not any(isinstance(module, nn.ReLU6) for module in modules)
