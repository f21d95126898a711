import copy

import pytest
import torch

from dual_image_clip.export.fixed_pseudo_anomaly import fixed_pseudo_anomaly
from dual_image_clip.method import PseudoAnomalyGenerator
from tests.helpers import assert_same, cloudy_images


@pytest.mark.parametrize("size", [(64, 64), (64, 97), (130, 80)])
@pytest.mark.parametrize("seed", range(8))
def test_fixed_pseudo_anomaly_is_the_generators_first_one(size, seed):
    image = cloudy_images(1, size, seed)
    fixed = fixed_pseudo_anomaly(PseudoAnomalyGenerator(None, seed), size)(image)
    expected = PseudoAnomalyGenerator(None, seed)(image)
    assert torch.equal(fixed.masks, expected.masks)
    assert_same(fixed.images, expected.images, 1e-4)
    assert (fixed.images - image).abs().max() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_fixed_pseudo_anomaly_of_a_texture_folder_is_the_generators_first_one(textures, seed):
    image = cloudy_images(1, (64, 97))
    fixed = fixed_pseudo_anomaly(PseudoAnomalyGenerator(textures, seed), (64, 97))(image)
    expected = PseudoAnomalyGenerator(textures, seed)(image)
    assert torch.equal(fixed.masks, expected.masks)
    assert_same(fixed.images, expected.images)


@pytest.mark.parametrize("with_folder", [False, True])
def test_fixed_pseudo_anomaly_treats_all_images_alike_and_leaves_the_generator_alone(textures, with_folder):
    generator = PseudoAnomalyGenerator(textures if with_folder else None, 5)
    generator(cloudy_images(2))
    untouched, images, state = copy.deepcopy(generator), cloudy_images(3), torch.get_rng_state()
    fixed = fixed_pseudo_anomaly(generator, (64, 64))
    together = fixed(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert together.masks.shape == (3, 1, 64, 64)
    for index in range(3):
        assert_same(together.images[index], fixed(images[index : index + 1]).images[0], 1e-6)
    assert torch.equal(generator(images).images, untouched(images).images)
