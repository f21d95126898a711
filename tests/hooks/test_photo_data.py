"""Photos of a test and their masks."""

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from PIL import Image

from dual_image_clip.hooks import read_item
from dual_image_clip.photos import PhotoReader

ON_ITS_SIDE, UPSIDE_DOWN = 6, 3


def item_of(folder, orientation, mask):
    """The defective photo of a data set, 40 × 60 pixels on the sensor, with this mask."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("good", "bad"):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / kind / f"{kind}.png", exif=exif)
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "bad.png")
    datamodule = Folder(
        name="photos", root=folder, normal_dir="good", abnormal_dir="bad", mask_dir="masks", test_split_mode="from_dir"
    )
    datamodule.setup()
    dataset = datamodule.test_data
    return read_item(dataset, dataset.samples.index[dataset.samples.label_index == 1][0], PhotoReader())


def spot(height, width):
    mask = np.zeros((height, width), np.uint8)
    mask[5:10, 20:38] = 255
    return mask


def test_a_mask_as_the_photo_is_seen_stays(tmp_path):
    mask = spot(60, 40)
    item = item_of(tmp_path, ON_ITS_SIDE, mask)
    assert item.image.shape == (3, 60, 40)
    assert torch.equal(item.gt_mask, torch.from_numpy(mask > 0).to(item.gt_mask.dtype))


def test_a_mask_as_the_sensor_lies_is_turned_with_its_photo(tmp_path):
    mask = spot(40, 60)
    item = item_of(tmp_path, ON_ITS_SIDE, mask)
    assert torch.equal(item.gt_mask, torch.from_numpy(np.rot90(mask, -1).copy() > 0).to(item.gt_mask.dtype))


@pytest.mark.parametrize("orientation", [1, UPSIDE_DOWN])
def test_a_mask_whose_size_tells_nothing_stays(tmp_path, orientation):
    mask = spot(40, 60)
    item = item_of(tmp_path, orientation, mask)
    assert torch.equal(item.gt_mask, torch.from_numpy(mask > 0).to(item.gt_mask.dtype))
