import numpy as np
import torch

from isic_siamese.pooling import STATISTICS, concentric_pooling


def disc(side: int, radius: float) -> torch.Tensor:
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    return (torch.hypot(axis[:, None], axis[None, :]) < radius).float()


def test_the_rings_are_those_of_a_slow_loop() -> None:
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    means = torch.zeros(2, 3, 3)
    squares, total = torch.zeros(2, 3, 3), torch.zeros(3)
    for row in range(8):
        for column in range(8):
            y, x = (row + 0.5) / 4 - 1, (column + 0.5) / 4 - 1
            radius = min((y * y + x * x) ** 0.5, 1.1)
            for ring in range(3):
                weight = max(0.0, 1 - abs(radius - 0.55 * ring) / 0.55)
                total[ring] += weight
                means[:, ring] += weight * maps[:, :, row, column]
                squares[:, ring] += weight * maps[:, :, row, column] ** 2
    means, squares = means / total[:, None], squares / total[:, None]
    expected = torch.cat([means, (squares - means**2).sqrt(), maps.amax(dim=(2, 3))[:, None]], dim=1)
    torch.testing.assert_close(concentric_pooling(maps), expected.flatten(1), atol=1e-5, rtol=1e-4)


def test_a_lesion_in_the_middle_is_told_from_skin_around_it_however_the_image_is_turned() -> None:
    lesion = disc(32, 0.4)
    maps = torch.stack([lesion, 1 - lesion])[None]
    middle, halfway, edge = concentric_pooling(maps).view(STATISTICS, 2)[:3]
    assert middle[0] > 0.8 > 0.2 > halfway[0] > edge[0] and middle[1] < 0.2 < 0.8 < edge[1]
    mottled = lesion * torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    pooled = [concentric_pooling(torch.rot90(mottled, turns)[None, None]) for turns in range(4)]
    for turned in pooled[1:]:
        torch.testing.assert_close(turned, pooled[0])


def test_maps_too_small_for_three_rings_and_even_ones_give_finite_numbers_and_gradients() -> None:
    for side in (1, 2, 3, 4):
        maps = torch.full((1, 2, side, side), 3.0, requires_grad=True)
        pooled = concentric_pooling(maps)
        assert pooled.shape == (1, 2 * STATISTICS)
        np.testing.assert_allclose(pooled.detach()[0, :6], 3.0, rtol=1e-5)
        pooled.sum().backward()  # type: ignore[no-untyped-call]
        assert maps.grad is not None and torch.isfinite(maps.grad).all()
