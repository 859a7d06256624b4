import numpy as np
import torch

from isic_siamese.lesion_map import SIDE, lesion_map
from isic_siamese.pooling import FAINT, N_REGIONS, STATISTICS, lesion_regions, pool_regions

RINGS = 3  # the first of the regions; those of the lesion come after them


def disc(side: int, radius: float) -> torch.Tensor:
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    return (torch.hypot(axis[:, None], axis[None, :]) < radius).float()


def some_regions(n: int) -> torch.Tensor:
    lesion = torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return torch.cat([lesion**2, 2 * lesion * (1 - lesion), (1 - lesion) ** 2], dim=1)


def test_means_and_deviations_are_those_of_a_slow_loop() -> None:
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    regions = some_regions(2)
    weights = torch.zeros(2, N_REGIONS, 8, 8)
    for row in range(8):
        for column in range(8):
            y, x = (row + 0.5) / 4 - 1, (column + 0.5) / 4 - 1
            radius = min((y * y + x * x) ** 0.5, 1.1)
            for ring in range(RINGS):
                weights[:, ring, row, column] = max(0.0, 1 - abs(radius - 0.55 * ring) / 0.55)
            cell = regions[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            weights[:, RINGS:, row, column] = cell.mean(dim=(2, 3)) + FAINT
    expected = torch.zeros(2, STATISTICS, 3)
    for image in range(2):
        for channel in range(3):
            values = maps[image, channel]
            for region in range(N_REGIONS):
                share = weights[image, region] / weights[image, region].sum()
                mean = (share * values).sum()
                expected[image, region, channel] = mean
                expected[image, N_REGIONS + region, channel] = (share * (values - mean) ** 2).sum().sqrt()
            expected[image, -1, channel] = values.max()
    torch.testing.assert_close(pool_regions(maps, regions), expected.flatten(1), atol=1e-5, rtol=1e-4)


def test_a_lesion_in_the_middle_is_told_from_skin_around_it_however_the_image_is_turned() -> None:
    lesion = disc(32, 0.4)
    maps = torch.stack([lesion, 1 - lesion])[None]
    middle, halfway, edge = pool_regions(maps, some_regions(1)).view(STATISTICS, 2)[:RINGS]
    assert middle[0] > 0.8 > 0.2 > halfway[0] > edge[0] and middle[1] < 0.2 < 0.8 < edge[1]
    mottled = lesion * torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    regions = some_regions(1)
    pooled = [
        pool_regions(torch.rot90(mottled, turns)[None, None], torch.rot90(regions, turns, (2, 3))) for turns in range(4)
    ]
    for turned in pooled[1:]:
        torch.testing.assert_close(turned, pooled[0])


def test_a_lesion_away_from_the_middle_is_told_from_skin_around_it_and_its_edge_lies_between() -> None:
    image = torch.full((128, 128, 3), 200, dtype=torch.uint8)
    image[16:64, 60:116] = 90
    maps = (image[None, ..., 0] < 150).float()[:, None, ::4, ::4]
    pooled = []
    for turns in range(4):
        regions = lesion_regions(torch.rot90(image, turns)[None])
        torch.testing.assert_close(regions.sum(dim=1), torch.ones(1, SIDE, SIDE))
        pooled.append(pool_regions(torch.rot90(maps, turns, (2, 3)), regions))
        torch.testing.assert_close(pooled[-1], pooled[0], atol=1e-4, rtol=1e-4)
    inside, rim, skin = pooled[0][0, RINGS:N_REGIONS]
    assert inside > 0.9 and 0.3 < rim < 0.7 and skin < 0.1


def test_the_regions_follow_how_much_of_a_cell_is_lesion() -> None:
    image = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)
    image[:, 20:44, 20:44] = 60
    lesion = lesion_map(image)
    inside, rim, skin = lesion_regions(image)[0]
    torch.testing.assert_close(inside + rim / 2, lesion[0])  # the mean of two draws with that chance
    assert (skin[lesion[0] < 0.01] > 0.98).all() and inside[16, 16] > 0.9


def test_maps_too_small_for_three_rings_and_even_ones_give_finite_numbers_and_gradients() -> None:
    for side in (1, 2, 3, 4):
        maps = torch.full((1, 2, side, side), 3.0, requires_grad=True)
        pooled = pool_regions(maps, lesion_regions(torch.zeros(1, side, side, 3)))
        assert pooled.shape == (1, 2 * STATISTICS)
        np.testing.assert_allclose(pooled.detach()[0, : 2 * N_REGIONS], 3.0, rtol=1e-5)
        pooled.sum().backward()  # type: ignore[no-untyped-call]
        assert maps.grad is not None and torch.isfinite(maps.grad).all()


def test_a_region_without_a_cell_is_the_mean_of_all() -> None:
    maps = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    no_lesion = torch.eye(3)[2].view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)
    inside = pool_regions(maps, no_lesion).view(STATISTICS, 2)[RINGS]
    torch.testing.assert_close(inside, maps.mean(dim=(2, 3))[0])
