"""Heatmaps keep the aspect ratio of the photo and stay readable."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem

from dual_image_clip.defects import find_defects
from dual_image_clip.prediction import HeatmapVisualizer
from dual_image_clip.prediction.panels import draw_panels, outline_panels, panel_size
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


@pytest.mark.parametrize(
    ("size", "places"),
    [
        ((64, 64), [(0, 0), (256, 0), (512, 0)]),
        ((64, 640), [(0, 0), (0, 205), (0, 410)]),
        ((640, 64), [(0, 0), (205, 0), (410, 0)]),
    ],
    ids=str,
)
def test_defects_are_outlined_where_they_are_in_the_panels_of_map_and_mask(size, places):
    scores = torch.zeros(size)
    scores[20:40, 24:44] = 1
    defects = find_defects(scores, 0.5, size)
    mask = torch.zeros(size, dtype=torch.bool)
    item = ImageItem(image=uniform(3, *size), anomaly_map=uniform(*size), pred_mask=mask)
    panel = panel_size(size)
    empty = draw_panels(HeatmapVisualizer(), item, panel)
    outlined = np.asarray(outline_panels(empty, panel, defects, size)).astype(int)
    changed = (outlined != np.asarray(empty.convert("RGB"))).any(axis=-1)
    corner = np.array([24, 20, 44, 40]) * panel[0] / size[1]
    for number, (left, top) in enumerate(places):
        rows, columns = np.nonzero(changed[top : top + panel[1], left : left + panel[0]])
        if number == 0:
            assert not len(rows), "the photo's own panel is left alone"
            continue
        # The box lies a little outside of the outline, its number above.
        for found, expected in zip((columns.min(), columns.max(), rows.max()), corner[[0, 2, 3]], strict=True):
            assert abs(found - expected) < 8
        assert corner[1] - 25 < rows.min() < corner[1]
        middle = changed[top : top + panel[1], left : left + panel[0]][
            int(corner[1]) + 5 : int(corner[3]) - 5, int(corner[0]) + 5 : int(corner[2]) - 5
        ]
        assert not middle.any(), "what is inside can still be seen"
