import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dual_image_clip.method import ScoreWeights, fuse, joint_anomaly_map, tile_layout, to_pixels, upsample_map
from dual_image_clip.method.fusion import fuse_maps, fuse_scores, peak
from tests.helpers import assert_same, uniform

patient = settings(deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 4)
weights_of_users = (
    st.tuples(*[st.floats(0, 4)] * 5, st.floats(0, 1))
    .filter(lambda values: any(values[:2]) and any(values[2:5]))
    .map(lambda values: ScoreWeights(*values))
)
PRIMES = ScoreWeights(2.0, 3.0, 5.0, 7.0, 11.0)


# Eq. 6, 12 and 13


def test_joint_map_is_the_plain_sum():
    visual, language = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1)
    torch.testing.assert_close(joint_anomaly_map(visual, language), visual + language)
    torch.testing.assert_close(joint_anomaly_map(None, language), language)


def test_fused_map_is_eq_12():
    visual, text = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1)
    torch.testing.assert_close(fuse_maps(visual, text, PRIMES), 2 * visual + 3 * text)
    torch.testing.assert_close(fuse_maps(None, text, PRIMES), 3 * text)


def test_fused_score_is_eq_13():
    visual, text, of_class = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1), uniform(2, seed=2)
    actual = fuse_scores(of_class, visual, text, PRIMES)
    without_visual = fuse_scores(of_class, None, text, PRIMES)
    assert actual.shape == without_visual.shape == (2,)
    for image in range(2):
        largest_visual = max(visual[image].flatten().tolist())
        largest_text = max(text[image].flatten().tolist())
        expected = 5 * of_class[image].item() + 11 * largest_text
        assert without_visual[image].item() == pytest.approx(expected, rel=1e-5)
        assert actual[image].item() == pytest.approx(expected + 7 * largest_visual, rel=1e-5)


@patient
@given(seed=seeds, height=sizes, width=sizes, share=st.floats(0, 1))
def test_peak_is_the_mean_of_so_many_of_the_highest(seed, height, width, share):
    maps = uniform(2, height, width, seed=seed)
    found = peak(maps, share)
    for image in range(2):
        ranked = sorted(maps[image].flatten().tolist(), reverse=True)
        highest = ranked[: max(1, math.floor(share * len(ranked)))]
        assert found[image].item() == pytest.approx(sum(highest) / len(highest), rel=1e-5)


def test_peak_of_no_share_is_the_maximum_to_the_last_digit():
    maps = uniform(4, 15, 15)
    assert torch.equal(peak(maps, 0.0), maps.amax(dim=(1, 2)))
    assert torch.equal(peak(maps, 1.9 / 225), maps.amax(dim=(1, 2)))


def test_a_single_patch_moves_a_score_of_a_share_by_its_part():
    calm, chance = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    chance[0, 4, 4] = 1
    of_class, weights = torch.zeros(1), ScoreWeights(peak_share=0.04)
    scores = [fuse_scores(of_class, each, each, weights).item() for each in (calm, chance)]
    assert scores == pytest.approx([0, 0.25 + 0.25])


def test_default_weights_are_those_of_the_paper():
    assert ScoreWeights() == ScoreWeights(1.0, 1.5, 1.0, 1.0, 1.0, 0.0)
    assert ScoreWeights().map_maximum == pytest.approx(3.5)
    assert ScoreWeights().score_maximum == pytest.approx(4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lambda_4": -1.0}, "lambda_4 must be at least 0, got -1"),
        ({"lambda_2": float("nan")}, "lambda_2 must be at least 0"),
        ({"peak_share": -0.1}, "peak_share must be at least 0, got -0.1"),
        ({"peak_share": 2}, "peak_share must be at most 1, got 2"),
        ({"peak_share": float("nan")}, "peak_share must be at least 0"),
        ({"lambda_1": 0, "lambda_2": 0}, "lambda_1 and lambda_2 must not both be 0"),
        ({"lambda_3": 0, "lambda_4": 0, "lambda_5": 0}, "nor lambda_3, lambda_4 and lambda_5 all"),
    ],
)
def test_weights_that_score_nothing_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        ScoreWeights(**weights)


@patient
@given(weights=weights_of_users, seed=seeds, without_visual=st.booleans())
def test_maxima_are_upper_bounds(weights, seed, without_visual):
    visual = None if without_visual else 2 * uniform(3, 2, 2, seed=seed)
    text, of_class = uniform(3, 2, 2, seed=seed + 1), uniform(3, seed=seed + 2)
    tolerance = 1e-5
    assert fuse_maps(visual, text, weights).max() <= weights.map_maximum + tolerance
    assert fuse_scores(of_class, visual, text, weights).max() <= weights.score_maximum + tolerance


@patient
@given(weights=weights_of_users)
def test_maxima_are_reached_by_the_worst_image(weights):
    worst = torch.ones(1, 2, 2)
    assert fuse_maps(2 * worst, worst, weights).max().item() == pytest.approx(weights.map_maximum, abs=1e-5)
    score = fuse_scores(torch.ones(1), 2 * worst, worst, weights)
    assert score.item() == pytest.approx(weights.score_maximum, abs=1e-5)


# Patches to pixels


def literal_mean_of_neighbours(maps: Tensor) -> Tensor:
    smoothed = torch.empty_like(maps)
    _, height, width = maps.shape
    for y in range(height):
        for x in range(width):
            neighbours = [
                maps[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            smoothed[:, y, x] = sum(neighbours) / 9
    return smoothed


@patient
@given(seed=seeds, height=sizes, width=sizes, size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_upsampled_map_equals_a_literal_one(seed, height, width, size):
    maps = uniform(2, height, width, seed=seed)

    def bilinear(values: Tensor) -> Tensor:
        return F.interpolate(values[:, None], size, mode="bilinear", align_corners=True)[:, 0]

    smooth, plain = upsample_map(maps, size), upsample_map(maps, size, smooth=False)
    assert smooth.shape == plain.shape == (2, *size)
    torch.testing.assert_close(smooth, bilinear(literal_mean_of_neighbours(maps)))
    torch.testing.assert_close(plain, bilinear(maps))
    for each in (smooth, plain):
        assert each.min() >= maps.min() - 1e-6
        assert each.max() <= maps.max() + 1e-6


def test_corners_keep_their_values_without_smoothing():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    pixels = upsample_map(maps, (5, 7), smooth=False)
    assert pixels[0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist() == pytest.approx([1, 2, 3, 4])
    assert pixels[0, 2, 3].item() == pytest.approx(2.5)


# Tiles


def literal_bilinear(grid: list[list[float]], size: tuple[int, int]) -> list[list[float]]:
    """The grid stretched so that its corners fall on the corners of the image."""

    def places(count: int, pixels: int) -> list[tuple[int, int, float]]:
        """Both neighbours of each pixel, and the share of the second one."""
        along = [index * (count - 1) / max(pixels - 1, 1) for index in range(pixels)]
        return [(int(place), min(int(place) + 1, count - 1), place - int(place)) for place in along]

    return [
        [
            (1 - down) * ((1 - right) * grid[top][left] + right * grid[top][beside])
            + down * ((1 - right) * grid[below][left] + right * grid[below][beside])
            for left, beside, right in places(len(grid[0]), size[1])
        ]
        for top, below, down in places(len(grid), size[0])
    ]


def literal_pixels(grids: list[list[list[float]]], layout) -> Tensor:
    """The mean, at each pixel of an image, over the tiles that hold it."""
    found = [[[] for _ in range(layout.image_size[1])] for _ in range(layout.image_size[0])]
    for (top, left), grid in zip(layout.corners, grids, strict=True):
        for y, row in enumerate(literal_bilinear(grid, layout.tile_size)):
            for x, value in enumerate(row):
                found[top + y][left + x].append(value)
    return torch.tensor([[sum(values) / len(values) for values in row] for row in found])


LAYOUTS = {
    "one tile": tile_layout((12, 12), (12, 12)),
    "wide": tile_layout((12, 20), (12, 12)),
    "tall": tile_layout((30, 12), (12, 12)),
    "four tiles": tile_layout((17, 16), (12, 12)),
}


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_pixels_are_the_mean_over_tiles_one_below_the_other(layout, smooth):
    patches = uniform(2, layout.num_tiles * 4, 3)
    pixels = to_pixels(patches, layout, smooth)
    assert pixels.shape == (2, *layout.image_size)
    for image in range(2):
        tiles = patches[image].unflatten(0, (layout.num_tiles, 4))
        grids = literal_mean_of_neighbours(tiles) if smooth else tiles
        assert_same(pixels[image], literal_pixels(grids.tolist(), layout))


@pytest.mark.parametrize("without_visual", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_fused_image_is_eq_12_and_13_over_its_tiles(layout, without_visual):
    of_class = uniform(2, layout.num_tiles)
    text = uniform(2, layout.num_tiles * 4, 3, seed=1)
    visual = 2 * uniform(2, layout.num_tiles * 4, 3, seed=2)
    scores, maps, _ = fuse(of_class, None if without_visual else visual, text, PRIMES, layout, smooth=False)
    for image in range(2):
        largest = [max(patch_map[image].flatten().tolist()) for patch_map in (visual, text)]
        visual_share = 0 if without_visual else 7 * largest[0]
        expected = 5 * sum(of_class[image].tolist()) / layout.num_tiles + visual_share + 11 * largest[1]
        assert scores[image].item() == pytest.approx(expected, rel=1e-5)
        patches = 3 * text[image] + (0 if without_visual else 2 * visual[image])
        assert_same(maps[image], literal_pixels(patches.unflatten(0, (layout.num_tiles, 4)).tolist(), layout))


def test_fused_map_is_smoothed_unless_told_otherwise():
    layout, maps = LAYOUTS["wide"], (2 * uniform(1, 8, 3), uniform(1, 8, 3, seed=1))
    fused = fuse(uniform(1, 2), *maps, PRIMES, layout)
    assert_same(fused.pixels, to_pixels(fuse_maps(*maps, PRIMES), layout, smooth=True))
    assert not torch.allclose(fused.pixels, to_pixels(fuse_maps(*maps, PRIMES), layout, smooth=False))
