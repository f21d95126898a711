"""Small pictures: small enough for reports of thousands of images, and true to the anomaly maps."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from dual_image_clip.prediction.sketch import ColourScale, as_jpeg, common_scale, draw_overlay, make_sketch


def picture(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


@pytest.mark.parametrize("size", [(240, 240), (240, 3840), (3840, 240), (240, 24000)])
def test_the_noisiest_image_stays_below_the_limit_of_a_report_of_thousands(size):
    torch.manual_seed(0)
    sketch = make_sketch(torch.rand(3, *size), torch.rand(size))
    overlay = as_jpeg(draw_overlay(sketch, ColourScale(0, 1)))
    # Base64 adds a third; 2,000 images of two pictures stay below 60 MB.
    assert (len(sketch.photo) + len(overlay)) * 4 / 3 * 2000 < 60e6
    assert sketch.anomaly_map.numel() * sketch.anomaly_map.element_size() <= 0.08 * size[0] * size[1]


@pytest.mark.parametrize("size", [(240, 240), (240, 320), (240, 3840), (3840, 240), (16, 16), (24, 2400)])
def test_shapes_are_kept_and_long_photos_can_be_read(size):
    sketch = make_sketch(torch.full((3, *size), 0.5), torch.rand(size))
    height, width = picture(sketch.photo).shape[:2]
    assert max(height, width) <= (256 if max(size) < 2 * min(size) else 1536)
    assert min(height, width) >= min(96, *size) or max(height, width) == 1536
    rows, columns = sketch.anomaly_map.shape
    assert columns / rows == pytest.approx(size[1] / size[0], rel=0.1)
    assert width / height == pytest.approx(size[1] / size[0], rel=0.05)
    assert picture(as_jpeg(draw_overlay(sketch, ColourScale(0, 1)))).shape == (height, width, 3)


def test_the_photo_shows_the_image():
    image = torch.zeros(3, 240, 240)
    image[0, :, :120] = 1.0
    shown = picture(make_sketch(image, torch.zeros(240, 240)).photo)
    assert shown[120, 60, 0] > 240
    assert shown[120, 200].max() < 15


def test_the_hottest_place_is_red_and_the_rest_blue():
    anomaly_map = torch.full((240, 240), 0.2)
    anomaly_map[40:80, 160:200] = 0.9
    sketch = make_sketch(torch.full((3, 240, 240), 0.5), anomaly_map)
    shown = picture(as_jpeg(draw_overlay(sketch, common_scale([sketch]))))
    hot, cold = shown[60, 180], shown[180, 60]
    assert hot[0] > hot[2] + 40
    assert cold[2] > cold[0] + 40


def test_one_scale_for_all_images():
    spot = F.pad(torch.ones(16, 16), (0, 48, 0, 48))
    faint, strong = (make_sketch(torch.full((3, 64, 64), 0.5), spot * peak) for peak in (0.1, 0.9))
    scale = common_scale([faint, strong])
    assert scale.low == pytest.approx(0.0)
    assert scale.high == pytest.approx(0.9, abs=1e-3)
    assert common_scale([]) == ColourScale(0.0, 1.0)


def test_maps_that_are_all_alike_can_be_drawn():
    sketch = make_sketch(torch.rand(3, 64, 64), torch.full((64, 64), 0.3))
    assert picture(as_jpeg(draw_overlay(sketch, common_scale([sketch])))).shape == (64, 64, 3)
