"""Defects, against SciPy's regions of a map that torch has resized."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dual_image_clip.defects import find_defects, small_map
from tests.helpers import seeded

TOUCHING = np.ones((3, 3))


def filled(contour, size) -> np.ndarray:
    """Pixels whose centres a polygon holds."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for (x, y), (next_x, next_y) in zip(contour, (*contour[1:], contour[0]), strict=True):
        if y != next_y:
            crosses = (rows > y) != (rows > next_y)
            inside ^= crosses & (columns < x + (rows - y) * (next_x - x) / (next_y - y))
    return inside


def as_scores(mask: np.ndarray, seed: int) -> torch.Tensor:
    """Scores above 0.5 in a mask, and below it elsewhere."""
    noise = 0.4 * torch.rand(mask.shape, generator=seeded(seed))
    return torch.from_numpy(mask) * 0.55 + noise


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0.1, 0.9), st.integers(0, 10**6), st.integers(0, 6))
def test_regions_are_those_of_scipy_to_the_pixel(height, width, density, seed, min_area):
    mask = np.random.default_rng(seed).random((height, width)) < density
    scores = as_scores(mask, seed)
    labels, count = ndimage.label(mask, TOUCHING)
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    found = find_defects(scores, 0.5, (height, width), min_area)
    assert sorted(defect.area for defect in found) == sorted(area for area in areas if area >= min_area)
    assert [defect.largest for defect in found] == sorted((defect.largest for defect in found), reverse=True)
    for defect in found:
        # No two scores are alike.
        region = labels == labels[scores.numpy() == np.float32(defect.largest)]
        rows, columns = np.nonzero(region)
        assert defect.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        values = scores.numpy()[region]
        assert defect.largest == values.max()
        assert defect.mean == pytest.approx(values.mean(), rel=1e-5)
        assert defect.share == defect.area / mask.size
        # Short outlines are exact: they hold the region, its holes, and nothing else.
        np.testing.assert_array_equal(filled(defect.contour, mask.shape), ndimage.binary_fill_holes(region))


@pytest.mark.parametrize("size", [(64, 64), (61, 150), (480, 640), (40, 16), (20, 200)], ids=str)
def test_scores_are_resized_to_the_photo(size):
    scores = F.interpolate(torch.rand(1, 1, 5, 6, generator=seeded(3)), (33, 40), mode="bicubic")[0, 0].clamp(0, 1)
    full = F.interpolate(scores[None, None], size, mode="bilinear", antialias=True)[0, 0].numpy()
    # Between two scores, so that rounding cannot move a pixel.
    levels = np.unique(full)
    at = np.argmax(np.diff(levels) * (levels[:-1] > 0.55) * (levels[1:] < 0.75))
    threshold = float(levels[at : at + 2].mean())
    labels, count = ndimage.label(full > threshold, TOUCHING)
    found = find_defects(scores, threshold, size)
    assert len(found) == count > 0
    boxes = {
        (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        for rows, columns in ndimage.find_objects(labels)
    }
    assert {defect.box for defect in found} == boxes
    assert sum(defect.area for defect in found) == np.count_nonzero(labels)


def test_outlines_of_large_regions_have_few_corners_and_are_true_to_a_pixel():
    rows, columns = np.mgrid[:700, :900]
    mask = ((rows - 350) / 300) ** 2 + ((columns - 450) / 400) ** 2 < 1
    (defect,) = find_defects(as_scores(mask, 0), 0.5, mask.shape)
    # Of 2800 on the edges of pixels.
    assert len(defect.contour) < 250
    inside = filled(defect.contour, mask.shape)
    depth = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)
    assert depth[inside != mask].max() <= 2
    assert abs(int(inside.sum()) - defect.area) < 0.01 * defect.area


def test_thin_long_regions_keep_their_outline():
    mask = np.eye(300, dtype=bool)
    (defect,) = find_defects(as_scores(mask, 0), 0.5, mask.shape)
    assert cv2.contourArea(np.array(defect.contour, np.float32)) == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("size", [(16, 16), (100, 70), (101, 71), (4000, 3000)], ids=str)
@pytest.mark.parametrize("at", [(0, 0), (31, 32), (63, 63)], ids=str)
def test_where_one_score_is_above_the_threshold_there_is_one_defect(size, at):
    scores = torch.full((64, 64), 0.2)
    scores[at] = 0.5 + 1e-6
    (defect,) = find_defects(scores, 0.5, size)
    assert defect.largest == float(scores.max())
    left, top, width, height = defect.box
    assert abs((top + height / 2) / size[0] - (at[0] + 0.5) / 64) < 1.5 / min(64, *size)
    assert abs((left + width / 2) / size[1] - (at[1] + 0.5) / 64) < 1.5 / min(64, *size)
    assert find_defects(scores, float(scores.max()), size) == ()


def test_everything_can_be_one_defect():
    (defect,) = find_defects(torch.full((9, 12), 0.7), 0.5, (90, 120))
    assert (defect.box, defect.area, defect.share) == ((0, 0, 120, 90), 10800, 1.0)
    assert set(defect.contour) == {(0, 0), (120, 0), (120, 90), (0, 90)}


@pytest.mark.parametrize("shape", [(240, 240), (240, 320), (480, 240), (240, 560)], ids=str)
def test_a_small_map_is_small_and_finds_the_same(shape):
    # As the model's: patches of 16 pixels, smoothed, made larger.
    patches = torch.rand(1, 1, shape[0] // 16, shape[1] // 16, generator=seeded(5))
    patches = F.avg_pool2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), 3, 1)
    scores = F.interpolate(patches, shape, mode="bilinear")[0, 0]
    kept = small_map(scores)
    assert kept.numel() * kept.element_size() <= 4050 * scores.numel() / 240**2
    threshold = float(scores.quantile(0.9))
    exact, found = find_defects(scores, threshold, shape), find_defects(kept, threshold, shape)
    masks = [np.any([filled(each.contour, shape) for each in defects], axis=0) for defects in (exact, found)]
    assert np.logical_and(*masks).sum() > 0.95 * np.logical_or(*masks).sum()
