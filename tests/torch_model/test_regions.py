"""Regions of inspection in the whole model."""

import pytest
import torch

from dual_image_clip.method import text_anomaly_score
from tests.helpers import assert_same
from tests.torch_model.tiny import DIM, PATCH, PRIMES, TEMPERATURE, TILE, VISUAL_ONLY, build, names, some_images

SIZES = [(TILE, TILE), (TILE, 160)]


class Fixed:
    """The same region, in pixels, for all images; or one for each name."""

    def __init__(self, mask: torch.Tensor, **by_name: torch.Tensor) -> None:
        self.pixels, self.by_name = mask, by_name

    def mask(self, name, size):
        found = self.by_name.get(str(name).removesuffix(".png"), self.pixels)
        assert found.shape == size
        return found


def left_half(size) -> torch.Tensor:
    pixels = torch.zeros(size, dtype=torch.bool)
    pixels[:, : size[1] // 2] = True
    return pixels


def spoilt(images, right: bool):
    """The same images with a dark spot in one of the halves."""
    images = images.clone()
    width = images.shape[3]
    left = width * 3 // 4 - 12 if right else width // 4 - 12
    images[:, :, 20:44, left : left + 24] = -2
    return images


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_region_of_everything_changes_nothing(tiny_clip, size, steps):
    images = some_images(3, size)
    golden = build(tiny_clip, steps=steps, golden=1)
    without = golden(images, names(3))
    golden.reset()
    golden.regions = Fixed(torch.ones(size, dtype=torch.bool))
    with_region = golden(images, names(3))
    assert_same(with_region.pred_score, without.pred_score, 1e-4)
    assert_same(with_region.anomaly_map, without.anomaly_map, 1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 2])
def test_there_is_no_score_outside(tiny_clip, size, steps):
    inside = left_half(size)
    model = build(tiny_clip, steps=steps, regions=Fixed(inside))
    maps = model(some_images(3, size), names(3)).anomaly_map
    assert (maps[:, ~inside] == 0).all()
    assert (maps[:, inside] > 0).all()


def test_the_score_is_eq_13_of_the_patches_inside(tiny_clip):
    model = build(tiny_clip, references=1, steps=0, regions=Fixed(left_half((TILE, TILE))))
    images = some_images(2)
    found = model(images, names(2)).pred_score
    features = model.encoder(images)
    tokens = features.patch_tokens[:, :, : TILE // PATCH // 2].flatten(1, 2)
    for image in range(2):
        visual = [min(1 - float(q @ r) for r in tokens[1 - image]) for q in tokens[image]]
        text = text_anomaly_score(tokens[image], model.text_embeddings, TEMPERATURE)
        of_class = text_anomaly_score(features.class_token[image], model.text_embeddings, TEMPERATURE)
        expected = PRIMES.lambda_3 * of_class + PRIMES.lambda_4 * max(visual) + PRIMES.lambda_5 * text.max()
        assert abs(found[image] - expected) < 1e-4


def test_a_place_outside_is_no_reference(tiny_clip):
    """A spot is found although the partner has it, too, where it is not inspected."""
    both = torch.cat([spoilt(some_images(1), right=False), spoilt(some_images(1, seed=5), right=True)])
    peaks = []
    for regions in (None, Fixed(left_half((TILE, TILE)))):
        model = build(tiny_clip, references=1, steps=0, weights=VISUAL_ONLY, regions=regions)
        tokens = model.encode(both).patches
        assert tokens.shape == (2, (TILE // PATCH) ** 2, DIM)
        peaks.append(model.visual_map(model.encode(both).patch_tokens[:1], [tokens[1:]])[0, :, :2].max().item())
    assert peaks[1] > peaks[0]


def test_golden_images_and_images_seen_are_references_inside_only(tiny_clip):
    region = Fixed(left_half((TILE, TILE)))
    model = build(tiny_clip, references=2, steps=0, regions=region)
    golden, seen = some_images(1, seed=8), some_images(1, seed=9)
    model.set_golden_images([golden], ["golden.png"])
    model(seen, names(1, first=5))
    allowed = model.encoder(torch.cat([golden, seen])).patch_tokens[:, :, :2].flatten(0, 2)
    kept = torch.cat([model.golden_references, *(each for each in model.references._recent.values())])
    nearest = (kept @ allowed.T).amax(dim=1)
    assert_same(nearest, torch.ones_like(nearest), 1e-4)


def test_each_image_has_its_own_region(tiny_clip):
    left = left_half((TILE, TILE))
    regions = Fixed(left, image_0=left, image_1=~left)
    maps = build(tiny_clip, steps=2, regions=regions)(some_images(2), names(2)).anomaly_map
    assert (maps[0][~left] == 0).all()
    assert (maps[1][left] == 0).all()
    assert (maps[0][left] > 0).all()
    assert (maps[1][~left] > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_map_made_again_is_the_same(tiny_clip, size):
    model = build(tiny_clip, regions=Fixed(left_half(size)))
    images = some_images(2, size)
    compared = model.compare(images, names(2))
    again = model.at_pixels(compared.patch_maps, size, model.inspect(images, names(2)))
    assert_same(again, compared.predictions.anomaly_map)
    assert torch.equal(compared.inspected, left_half(size).expand(2, -1, -1))
