"""TensorFlow's "same" padding without a padded copy of each feature map: the kernel is padded in its place."""

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn
from torch.nn import functional


class LeanConv2dSame(Conv2dSame):
    """Does what timm's `Conv2dSame` does, on a CPU without the copy; on CUDA torch is fast with odd kernels only."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve `maps` `(N, C, H, W)`."""
        if maps.is_cuda:
            padded: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
            return padded
        # Where one more row is asked for after the map than before it, torch pads both sides by it, and a row of zeros
        # leads the kernel.
        sides = zip(maps.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (get_same_padding(*side) for side in sides)
        kernel = functional.pad(self.weight, (columns % 2, 0, rows % 2, 0))
        after = ((rows + 1) // 2, (columns + 1) // 2)
        return functional.conv2d(maps, kernel, self.bias, self.stride, after, self.dilation, self.groups)


def use_lean_same_padding(network: nn.Module) -> None:
    """Make each depthwise `Conv2dSame` a `LeanConv2dSame`; a dense one would lose more time than the copy takes."""
    for module in network.modules():
        if isinstance(module, Conv2dSame) and module.groups > 1 and module.dilation == (1, 1):
            module.__class__ = LeanConv2dSame
