"""Heatmaps keep the aspect ratio of the photo and stay readable."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem

from dual_image_clip.prediction import HeatmapVisualizer
from dual_image_clip.prediction.panels import draw_mask, draw_panels, panel_size
from tests.helpers import uniform


@pytest.mark.parametrize(
    ("size", "panel"),
    [
        ((240, 240), (256, 256)),
        ((3000, 4000), (341, 256)),
        ((256, 4096), (2048, 128)),
        ((4096, 256), (128, 2048)),
        ((16, 16), (256, 256)),
        ((20, 4000), (2048, 96)),
    ],
)
def test_panels_have_the_photos_aspect_ratio(size, panel):
    assert panel_size(size) == panel


@pytest.mark.parametrize("size", [(64, 64), (64, 640), (640, 64)])
def test_a_mask_that_comes_later_looks_as_if_it_had_been_there(size):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[20:40, 20:40] = True
    item = ImageItem(image=uniform(3, *size), anomaly_map=uniform(*size), pred_mask=mask)
    visualizer, panel = HeatmapVisualizer(), panel_size(size)
    at_once = draw_panels(visualizer, item, panel)
    item.pred_mask = torch.zeros_like(mask)
    empty = draw_panels(visualizer, item, panel)
    later = draw_mask(visualizer, empty, panel, mask)
    assert sorted(at_once.size) == sorted([3 * min(panel), max(panel)] if max(size) > min(size) else [256, 768])

    def red(picture) -> set[tuple[int, int]]:
        changed = (np.asarray(picture).astype(int) != np.asarray(empty)).any(axis=-1)
        return set(zip(*np.nonzero(changed), strict=True))

    assert red(at_once)
    left, top = (side - panel[axis] for axis, side in enumerate(at_once.size))
    for row, column in red(later):
        assert row >= top
        assert column >= left
    centres = [np.mean(sorted(red(picture)), axis=0) for picture in (at_once, later)]
    assert np.abs(centres[0] - centres[1]).max() < 4
