import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.paper.peers.clip import ordinary_path, score
from tests.helpers import assert_same, random_images, unit_vectors

pytestmark = pytest.mark.open_clip


@torch.no_grad()
def open_clip_tokens(clip: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Class token, projected patch tokens and the tokens behind each block, as open_clip itself computes them."""
    behind = []
    blocks = clip.visual.transformer.resblocks
    handles = [block.register_forward_hook(lambda _block, _inputs, out: behind.append(out)) for block in blocks]
    clip.visual.output_tokens = True
    class_token, tokens = clip.encode_image(images)
    clip.visual.output_tokens = False
    for handle in handles:
        handle.remove()
    # Older releases of open_clip run their blocks on (N, B, C).
    behind = [each if each.shape[0] == len(images) else each.transpose(0, 1) for each in behind]
    return F.normalize(class_token, dim=-1), F.normalize(tokens @ clip.visual.proj, dim=-1), behind


def test_tokens_are_those_of_open_clip(tiny_clip):
    images = random_images(3, 3, 64, 64)
    class_token, patches, behind = open_clip_tokens(tiny_clip, images)
    tokens = ordinary_path(tiny_clip.visual, images, layers=(1, 3))
    assert tokens.patch_tokens.shape == (3, 4, 4, 24)
    assert tokens.layer_tokens.shape == (3, 2, 4, 4, 48)
    assert_same(tokens.class_token, class_token)
    assert_same(tokens.patch_tokens.flatten(1, 2), patches)
    for index, block in enumerate((0, 2)):
        assert_same(tokens.layer_tokens[:, index].flatten(1, 2), behind[block][:, 1:], tolerance=1e-4)


def test_class_token_is_the_one_of_encode_image(tiny_clip):
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        expected = F.normalize(tiny_clip.encode_image(images), dim=-1)
    assert_same(ordinary_path(tiny_clip.visual, images).class_token, expected)


def test_no_layers_are_kept_unless_asked_for(tiny_clip):
    assert ordinary_path(tiny_clip.visual, random_images(2, 3, 64, 64)).layer_tokens.shape == (2, 0, 4, 4, 48)


def test_an_image_is_encoded_the_same_in_any_batch(tiny_clip):
    images = random_images(3, 3, 64, 64)
    together = ordinary_path(tiny_clip.visual, images, (2,))
    for index in range(3):
        alone = ordinary_path(tiny_clip.visual, images[index : index + 1], (2,))
        for one, all_of_them in zip(alone, together, strict=True):
            assert_same(one[0], all_of_them[index], tolerance=1e-4)


def test_tokens_are_float32_without_gradient_and_the_tower_is_left_alone(tiny_clip):
    before = {name: weight.clone() for name, weight in tiny_clip.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        tokens = ordinary_path(tiny_clip.visual, random_images(2, 3, 64, 64), (1, 2))
    for each in tokens:
        assert each.dtype == torch.float32
        assert not each.requires_grad
    assert all(torch.equal(weight, before[name]) for name, weight in tiny_clip.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_clip.modules())
    assert not tiny_clip.visual.output_tokens


@pytest.mark.parametrize("layers", [(0,), (4,), (2, 1), (1, 1), (-1,)])
def test_blocks_that_do_not_exist_or_are_out_of_order_are_refused(tiny_clip, layers):
    with pytest.raises(ValueError, match=r"increasing numbers in 1\.\.3"):
        ordinary_path(tiny_clip.visual, random_images(1, 3, 64, 64), layers)


@pytest.mark.parametrize("shape", [(1, 3, 32, 64), (1, 3, 80, 80), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_another_shape_are_refused(tiny_clip, shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 64, 64\)"):
        ordinary_path(tiny_clip.visual, torch.zeros(shape))


def test_other_towers_are_refused():
    with pytest.raises(TypeError, match="unsupported image tower"):
        ordinary_path(open_clip.create_model("RN50").visual, torch.zeros(1, 3, 224, 224))


def literal_probability(token: Tensor, text: Tensor, temperature: float) -> float:
    normal, anomalous = (
        math.exp(sum(a * b for a, b in zip(token.tolist(), each.tolist(), strict=True)) / temperature) for each in text
    )
    return anomalous / (normal + anomalous)


def literal_upsampling(patch_map: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation along one axis after the other; the corners stay where they are."""
    for _axis in range(2):
        places = np.linspace(0, len(patch_map) - 1, size)
        columns = [np.interp(places, np.arange(len(patch_map)), column) for column in patch_map.T]
        patch_map = np.array(columns)
    return patch_map


def test_scores_are_text_scores_of_ordinary_tokens():
    class_token, patches, text = unit_vectors(2, 6), unit_vectors(2, 3, 3, 6, seed=1), unit_vectors(2, 6, seed=2)
    scores = score(class_token, patches, text, temperature=0.2, image_size=(12, 12))
    assert scores.images.tolist() == pytest.approx(
        [literal_probability(token, text, 0.2) for token in class_token], abs=1e-6
    )
    for image in range(2):
        patch_map = [[literal_probability(patch, text, 0.2) for patch in row] for row in patches[image]]
        np.testing.assert_allclose(scores.maps[image], literal_upsampling(np.array(patch_map), 12), atol=1e-6)
