from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.paper.images import all_categories, find_datamodule, load_golden_images, load_images
from benchmarks.paper.plan import DataSettings
from dual_image_clip.photos import UnusableImageError
from tests.drawn_data import draw_plate, make_category, save
from tests.helpers import assert_same

SIZE = 64


def folder(root: Path, **arguments) -> DataSettings:
    names = {"name": "plates", "normal_dir": "train/good", "normal_test_dir": "test/good", "abnormal_dir": "test/spot"}
    return DataSettings(name="Folder", root=str(root), arguments={**names, **arguments})


def assert_defects_lie_in_their_masks(category):
    """Plates are drawn with a shade of 140 and defects with one of 40, of 255."""
    assert category.masks.flatten(1).any(dim=1).equal(category.labels)
    for image, mask in zip(category.images[category.labels], category.masks[category.labels], strict=True):
        dark = image.mean(dim=0) < 90 / 255
        assert dark.any()
        # Scratches are a few pixels high.
        assert (dark & mask).sum() / (dark | mask).sum() > 0.5
    assert not (category.images[~category.labels].mean(dim=1) < 60 / 255).any()


def test_images_labels_and_masks_of_mvtec(mvtec):
    category = load_images(mvtec, "bottle", SIZE)
    assert category.images.shape == (8, 3, SIZE, SIZE)
    assert category.masks.shape == (8, SIZE, SIZE)
    assert category.masks.dtype == category.labels.dtype == torch.bool
    assert 0 <= category.images.min() < category.images.max() <= 1
    assert category.labels.tolist() == [Path(path).parent.name != "good" for path in category.paths]
    assert all(Path(path).is_file() for path in category.paths)
    assert category.class_name == "bottle"
    assert_defects_lie_in_their_masks(category)


def test_images_are_those_of_their_paths(mvtec):
    category = load_images(mvtec, "bottle", 120)
    for image, path in zip(category.images, category.paths, strict=True):
        expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)


def test_the_short_side_is_the_towers(tmp_path):
    make_category(tmp_path / "bottle", size=(100, 150))
    category = load_images(DataSettings(root=str(tmp_path)), "bottle", SIZE)
    assert category.images.shape[-2:] == category.masks.shape[-2:] == (64, 96)
    assert_defects_lie_in_their_masks(category)


def test_images_of_other_shapes_are_stretched_to_the_largest_with_their_masks(tmp_path):
    make_category(tmp_path / "bottle", normal=3, defective=2)
    save(draw_plate(7, (100, 150))[0], tmp_path / "bottle" / "test" / "good" / "900.png")
    image, mask = draw_plate(8, (160, 100), "spot")
    save(image, tmp_path / "bottle" / "test" / "spot" / "900.png")
    save(mask, tmp_path / "bottle" / "ground_truth" / "spot" / "900_mask.png")
    category = load_images(DataSettings(root=str(tmp_path)), "bottle", SIZE)
    assert category.images.shape == (9, 3, 102, 96)
    assert category.masks.shape == (9, 102, 96)
    assert_defects_lie_in_their_masks(category)


def test_golden_images_are_good_ones_of_the_training_set(mvtec):
    size = (SIZE, SIZE + 20)
    golden = load_golden_images(mvtec, "bottle", 3, 0, size)
    assert golden.shape == (3, 3, *size)
    assert not (golden.mean(dim=1) < 60 / 255).any()
    assert golden.equal(load_golden_images(mvtec, "bottle", 3, 0, size))
    assert not golden.equal(load_golden_images(mvtec, "bottle", 3, 1, size))
    test_images = load_images(mvtec, "bottle", SIZE).images
    square = load_golden_images(mvtec, "bottle", 4, 0, (SIZE, SIZE))
    assert torch.cdist(square.flatten(1), test_images.flatten(1)).min() > 0
    with pytest.raises(ValueError, match=r"k_shot=5, but .* bottle has 4 training images"):
        load_golden_images(mvtec, "bottle", 5, 0, size)


def test_sixteen_bits_are_not_clipped_to_white(mvtec):
    path = Path(mvtec.root) / "bottle" / "test" / "good" / "000.png"
    shades = draw_plate(3)[0].mean(axis=-1)
    Image.fromarray((shades * 257).astype(np.uint16)).save(path)
    category = load_images(mvtec, "bottle", 120)
    image = category.images[category.paths.index(str(path))]
    assert_same(image, torch.from_numpy(shades / 255).float().expand(3, -1, -1), 1e-3)


@pytest.mark.parametrize("file", ["test/good/001.png", "test/spot/001.png", "ground_truth/spot/001_mask.png"])
@pytest.mark.parametrize("how", ["torn", "no image"])
def test_a_corrupt_file_is_named(file, how, mvtec):
    path = Path(mvtec.root) / "bottle" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if how == "torn" else b"This is not a picture.")
    with pytest.raises(UnusableImageError, match=file):
        load_images(mvtec, "bottle", SIZE)


def test_a_folder_without_masks(tmp_path):
    make_category(tmp_path)
    category = load_images(folder(tmp_path), "plates", SIZE)
    assert category.masks is None
    assert (len(category.labels), int(category.labels.sum())) == (9, 3)
    assert category.class_name == "object"


def test_a_folder_with_masks(tmp_path):
    make_category(tmp_path)
    category = load_images(folder(tmp_path, mask_dir="ground_truth/spot"), "plates", SIZE)
    assert_defects_lie_in_their_masks(category)


def test_a_folders_test_images_are_all_measured_and_always_the_same(tmp_path):
    make_category(tmp_path)
    without_test = folder(tmp_path, normal_test_dir=None)
    assert len(load_images(folder(tmp_path), "plates", SIZE).paths) == len(list(tmp_path.glob("test/[gs][op]o*/*.png")))
    loaded = [load_images(without_test, "plates", SIZE).paths for _ in range(4)]
    assert loaded == [loaded[0]] * 4


def test_images_of_one_kind_are_refused(tmp_path):
    make_category(tmp_path)
    with pytest.raises(ValueError, match=r"Folder plates: 6 test images, 0 anomalous; both kinds are needed"):
        load_images(folder(tmp_path, abnormal_dir=None), "plates", SIZE)


@pytest.mark.parametrize("name", ["NoSuchData", "no.such.module.Data", "ImageBatch", "torch.nn.Linear", "", "..x"])
def test_an_unknown_datamodule_is_refused(name):
    with pytest.raises(ValueError, match=r"data\.name=.* is no anomalib datamodule"):
        find_datamodule(name)


def test_a_datamodule_is_found_by_its_dotted_path():
    assert find_datamodule("dual_image_clip.procedural.Procedural") is find_datamodule("Procedural")


def test_wrong_arguments_are_refused(mvtec):
    mvtec.arguments = {"colour": "red"}
    with pytest.raises(ValueError, match=r"data\.arguments: MVTecAD .*colour"):
        load_images(mvtec, "bottle", SIZE)


def test_an_unknown_category_is_refused(drawn):
    with pytest.raises(ValueError, match="unicorn"):
        load_images(DataSettings(name="Procedural", root=str(drawn)), "unicorn", SIZE)


def test_categories():
    assert len(all_categories(DataSettings(name="MVTecAD"))) == 15
    assert len(all_categories(DataSettings(name="Visa"))) == 12
    assert len(all_categories(DataSettings(name="Procedural"))) == 40
    assert all_categories(DataSettings(name="Visa", categories=["pcb1"])) == ["pcb1"]
    assert all_categories(DataSettings(name="Folder", arguments={"name": "plates"})) == ["plates"]
    with pytest.raises(ValueError, match=r"data\.categories: name the categories of BTech"):
        all_categories(DataSettings(name="BTech"))
    with pytest.raises(ValueError, match=r"data\.categories: Folder has none"):
        all_categories(DataSettings(name="Folder", categories=["a", "b"]))


def test_visa(tmp_path):
    make_category(tmp_path / "visa_pytorch" / "pcb1", size=(100, 150))
    category = load_images(DataSettings(name="Visa", root=str(tmp_path)), "pcb1", SIZE)
    assert category.class_name == "pcb"
    assert_defects_lie_in_their_masks(category)
