import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.fft import dctn

from dual_image_clip.method import DualPathEncoder
from training.architecture import build, cosine_filters, sine_positions, two_path_tokens
from training.recipe import Recipe

pytestmark = pytest.mark.open_clip


@pytest.fixture
def visual(recipe: Recipe, tmp_path):
    return build(recipe, tmp_path).visual.eval()


def test_training_sees_the_tokens_that_the_detector_sees(visual):
    images = torch.randn(2, 3, 240, 240)
    tokens = two_path_tokens(visual, images)
    features = DualPathEncoder(visual)(images)
    torch.testing.assert_close(F.normalize(tokens.class_token, dim=-1), features.class_token)
    torch.testing.assert_close(F.normalize(tokens.patch_tokens, dim=-1), features.patch_tokens.flatten(1, 2))


def test_ordinary_path_is_open_clips(visual):
    images = torch.randn(2, 3, 240, 240)
    torch.testing.assert_close(two_path_tokens(visual, images).class_token, visual(images), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight(visual):
    tokens = two_path_tokens(visual.requires_grad_(True), torch.randn(2, 3, 240, 240))
    sum(each.square().sum() for each in tokens).backward()
    assert [name for name, weight in visual.named_parameters() if weight.grad is None] == []


def test_window_is_a_cut_of_the_position_embedding(visual):
    images = torch.randn(1, 3, 64, 64)
    here, there = two_path_tokens(visual, images, (0, 0)), two_path_tokens(visual, images, (3, 5))
    assert not torch.allclose(here.patch_tokens, there.patch_tokens)
    # Move the embedding by as much, and the first window sees what the second saw.
    side = visual.grid_size[0]
    with torch.no_grad():
        grid = visual.positional_embedding[1:].unflatten(0, (side, side)).roll((-3, -5), dims=(0, 1))
        visual.positional_embedding[1:] = grid.flatten(0, 1)
    torch.testing.assert_close(two_path_tokens(visual, images, (0, 0)).patch_tokens, there.patch_tokens)


def test_cosine_filters_are_those_of_scipy():
    filters = cosine_filters(count=40, patch=8)
    patch = np.random.default_rng(0).random((8, 8))
    frequencies = dctn(patch, norm="ortho")
    grey = np.stack([patch] * 3) / np.sqrt(3)  # all its length is on the axis of brightness
    response = (filters * grey).sum(axis=(1, 2, 3))
    order = sorted(np.ndindex(8, 8), key=lambda pair: pair[0] ** 2 + pair[1] ** 2)[:32]
    weights = [1.4 / 8 * (1 + row + column) ** 0.7 for row, column in order]
    expected = [frequencies[place] * weight for place, weight in zip(order, weights, strict=True)]
    np.testing.assert_allclose(response[:32], expected, atol=1e-6)
    # The colour axes do not see grey.
    np.testing.assert_allclose(response[32:], 0, atol=1e-6)


def test_positions_differ_and_neighbours_are_alike():
    positions = sine_positions(side=15, width=192)
    assert positions.shape == (226, 192)
    assert not positions[0].any()
    similarity = F.normalize(positions[1:], dim=1) @ F.normalize(positions[1:], dim=1).T
    middle = 7 * 15 + 7
    assert similarity[middle].argmax() == middle
    assert similarity[middle, middle + 1] > similarity[middle, middle + 5]
    assert similarity[middle, middle + 15] > similarity[middle, middle + 75]


def test_open_clip_builds_the_architecture_itself(recipe, tmp_path):
    clip = build(recipe, tmp_path)
    again = open_clip.create_model(recipe.name)
    again.load_state_dict(clip.state_dict())
    images = torch.randn(1, 3, 240, 240)
    torch.testing.assert_close(again.eval().encode_image(images), clip.eval().encode_image(images))
