import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dual_image_clip.method import TileLayout, merge_tiles, split_into_tiles, tile_layout
from dual_image_clip.method.tiling import MAX_TILES
from tests.helpers import random_images

patient = settings(deadline=None)
# At most 8 × 8 tiles, which is just as many as are allowed.
layouts = st.builds(
    tile_layout,
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.tuples(st.integers(8, 70), st.integers(8, 70)),
)


@patient
@given(layouts)
def test_split_and_merge_give_the_image_back(layout: TileLayout):
    maps = random_images(2, *layout.image_size)
    tiles = split_into_tiles(maps.unsqueeze(1), layout)
    assert tiles.shape == (2 * layout.num_tiles, 1, *layout.tile_size)
    torch.testing.assert_close(merge_tiles(tiles.squeeze(1), layout), maps)


@patient
@given(layouts)
def test_every_pixel_is_covered_and_no_tile_leaves_the_image(layout: TileLayout):
    (height, width), (tile_height, tile_width) = layout.image_size, layout.tile_size
    covered = torch.zeros(height, width, dtype=torch.bool)
    for y, x in layout.corners:
        assert 0 <= y <= height - tile_height
        assert 0 <= x <= width - tile_width
        covered[y : y + tile_height, x : x + tile_width] = True
    assert covered.all()


@patient
@given(st.tuples(st.integers(1, 64), st.integers(1, 64)), st.tuples(st.integers(8, 70), st.integers(8, 70)))
def test_tiles_are_as_few_as_possible(image_size: tuple[int, int], tile_size: tuple[int, int]):
    layout = tile_layout(image_size, tile_size)
    assert layout.image_size == image_size
    assert layout.tile_size == (min(image_size[0], tile_size[0]), min(image_size[1], tile_size[1]))
    assert layout.num_tiles == len(layout.corners)
    assert layout.num_tiles == math.ceil(image_size[0] / tile_size[0]) * math.ceil(image_size[1] / tile_size[1])


@patient
@given(layouts)
def test_corners_are_evenly_spaced_from_edge_to_edge(layout: TileLayout):
    rows = sorted({y for y, _ in layout.corners})
    columns = sorted({x for _, x in layout.corners})
    assert list(layout.corners) == [(y, x) for y in rows for x in columns]  # row by row
    for starts, length, tile in zip((rows, columns), layout.image_size, layout.tile_size, strict=True):
        assert starts[0] == 0
        assert starts[-1] == length - tile
        gaps = [after - before for before, after in pairwise(starts)]
        assert not gaps or max(gaps) - min(gaps) <= 1


@patient
@given(layouts)
def test_overlaps_are_averaged(layout: TileLayout):
    tiles = random_images(2 * layout.num_tiles, *layout.tile_size)
    merged = merge_tiles(tiles, layout)
    for image in range(2):
        for y in (0, layout.image_size[0] // 2, layout.image_size[0] - 1):
            for x in (0, layout.image_size[1] // 2, layout.image_size[1] - 1):
                seen = [
                    tiles[image * layout.num_tiles + index, y - top, x - left].item()
                    for index, (top, left) in enumerate(layout.corners)
                    if top <= y < top + layout.tile_size[0] and left <= x < left + layout.tile_size[1]
                ]
                assert merged[image, y, x].item() == pytest.approx(sum(seen) / len(seen), abs=1e-5)


@pytest.mark.parametrize(
    ("image_size", "tile_size", "corners"),
    [
        ((240, 240), (240, 240), ((0, 0),)),
        ((360, 240), (240, 240), ((0, 0), (120, 0))),
        ((240, 360), (240, 240), ((0, 0), (0, 120))),
        ((240, 480), (240, 240), ((0, 0), (0, 240))),
        ((240, 481), (240, 240), ((0, 0), (0, 120), (0, 241))),
        ((1000, 240), (240, 240), ((0, 0), (190, 0), (380, 0), (570, 0), (760, 0))),
        ((3, 3), (2, 2), ((0, 0), (0, 1), (1, 0), (1, 1))),
        ((100, 180), (240, 240), ((0, 0),)),
    ],
)
def test_known_layouts(image_size, tile_size, corners):
    assert tile_layout(image_size, tile_size).corners == corners


def test_tiles_of_one_image_stand_together():
    images = torch.arange(2 * 3).view(2, 1, 1, 3)
    tiles = split_into_tiles(images, tile_layout((1, 3), (1, 2)))
    assert tiles.flatten(1).tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]


def test_overlap_of_two_tiles():
    tiles = torch.tensor([[[1.0, 2.0]], [[4.0, 8.0]]])
    assert merge_tiles(tiles, tile_layout((1, 3), (1, 2))).tolist() == [[[1.0, 3.0, 8.0]]]


def test_channels_stay_together():
    images = torch.randn(2, 3, 10, 25)
    layout = tile_layout((10, 25), (10, 10))
    tiles = split_into_tiles(images, layout)
    assert tiles.shape == (6, 3, 10, 10)
    assert torch.equal(tiles[4], images[1, :, :, 8:18])


@pytest.mark.parametrize(
    ("image_size", "text"),
    [
        ((10 * MAX_TILES + 1, 10), "641×10 pixels needs 65 tiles of 10×10, more than 64"),
        ((10, 10 * MAX_TILES + 1), "10×641 pixels needs 65 tiles of 10×10, more than 64"),
        ((90, 85), "90×85 pixels needs 81 tiles of 10×10, more than 64"),
        ((9, 2000), "9×2000 pixels needs 200 tiles of 9×10, more than 64"),
    ],
)
def test_too_many_tiles_are_refused(image_size, text):
    with pytest.raises(ValueError, match=text):
        tile_layout(image_size, (10, 10))


@pytest.mark.parametrize("image_size", [(10 * MAX_TILES, 10), (10, 10 * MAX_TILES), (80, 80)])
def test_as_many_tiles_as_are_allowed(image_size):
    assert tile_layout(image_size, (10, 10)).num_tiles == MAX_TILES
