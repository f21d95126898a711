"""Regions of inspection in the method, beside slow loops over what is inside."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dual_image_clip.method import (
    AdaptationSettings,
    Inspected,
    ScoreWeights,
    as_references,
    covered_inside,
    fit_adapters,
    fuse,
    initial_adapter,
    inspected_patches,
    tile_layout,
    to_pixels,
    visual_anomaly_map,
)
from dual_image_clip.method.fusion import peak
from tests.helpers import assert_same, uniform, unit_vectors
from tests.method.adaptation_tasks import some_task

patient = settings(deadline=None, max_examples=40)
PATCH = (4, 4)


def random_region(seed: int, layout, batch: int = 2) -> Inspected:
    pixels = torch.rand(batch, *layout.image_size, generator=torch.Generator().manual_seed(seed)) > 0.5
    # Coarse, so that some patches are in and some are out.
    pixels = pixels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    pixels = pixels[:, : layout.image_size[0], : layout.image_size[1]]
    pixels[:, :8, :8] = True
    return inspected_patches(pixels, layout, PATCH)


@patient
@given(seed=st.integers(0, 999), size=st.sampled_from([(16, 16), (16, 40), (16, 16)]))
def test_a_patch_counts_where_half_of_it_is_inside(seed, size):
    layout = tile_layout(size, (16, 16))
    pixels = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed)) > 0.5
    pixels[0, :9, :6] = True
    found = inspected_patches(pixels, layout, PATCH).patches.view(2, layout.num_tiles, 4, 4)
    for image in range(2):
        shares = {}
        for tile, (y, x) in enumerate(layout.corners):
            for row in range(4):
                for column in range(4):
                    part = pixels[image, y + 4 * row : y + 4 * row + 4, x + 4 * column : x + 4 * column + 4]
                    shares[tile, row, column] = part.sum().item() / 16
        least = min(0.5, max(shares.values()))
        for place, share in shares.items():
            assert found[image][place] == (share >= least)


def test_a_region_smaller_than_half_a_patch_is_its_patch():
    pixels = torch.zeros(1, 16, 16, dtype=torch.bool)
    pixels[0, 5, 6] = True
    found = inspected_patches(pixels, tile_layout((16, 16), (16, 16)), PATCH).patches
    assert found.nonzero().tolist() == [[0, 1, 1]]


@patient
@given(seed=st.integers(0, 999))
def test_distances_are_those_to_the_patches_inside(seed):
    tokens, query = unit_vectors(2, 4, 4, 8, seed=seed), unit_vectors(2, 4, 4, 8, seed=seed + 1)
    inspected = random_region(seed, tile_layout((16, 16), (16, 16)))
    found = visual_anomaly_map(query, as_references(tokens, inspected))
    for image in range(2):
        inside = tokens[image][inspected.patches[image]]
        expected = (1 - query[image].flatten(0, 1) @ inside.T).amin(dim=1).clamp(0, 2).view(4, 4)
        torch.testing.assert_close(found[image], expected)


@patient
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_the_maximum_is_that_of_the_patches_inside(seed, share):
    inspected = random_region(seed, tile_layout((16, 16), (16, 16)))
    scores = uniform(2, 4, 4, seed=seed)
    # What is outside may be anything.
    found = peak(scores.where(inspected.patches, torch.inf), share, inspected.patches)
    for image in range(2):
        inside = sorted(scores[image][inspected.patches[image]].tolist(), reverse=True)
        number = max(1, int(torch.tensor(share) * len(inside)))
        assert abs(found[image].item() - sum(inside[:number]) / number) < 1e-5


def test_all_inside_is_the_same_as_no_region():
    layout = tile_layout((16, 40), (16, 16))
    inspected = inspected_patches(torch.ones(2, 16, 40, dtype=torch.bool), layout, PATCH)
    maps = uniform(2, 12, 4), uniform(2, 12, 4, seed=1)
    weights = ScoreWeights(peak_share=0.2)
    for smooth in (True, False):
        bounded = fuse(uniform(2, 3), *maps, weights, layout, smooth, inspected)
        for with_region, without in zip(bounded, fuse(uniform(2, 3), *maps, weights, layout, smooth), strict=True):
            torch.testing.assert_close(with_region, without)


@patient
@given(seed=st.integers(0, 999), smooth=st.booleans())
def test_pixels_outside_are_zero_and_no_patch_outside_has_a_part_inside(seed, smooth):
    layout = tile_layout((16, 40), (16, 16))
    inspected = random_region(seed, layout)
    scores = 0.1 + uniform(2, 12, 4, seed=seed)
    found = to_pixels(scores, layout, smooth, inspected)
    assert (found[~inspected.pixels] == 0).all()
    others = to_pixels(scores.where(inspected.patches, 7.0), layout, smooth, inspected)
    assert_same(found, others)
    # A weighted mean of scores inside lies among them.
    for image in range(2):
        inside = scores[image][inspected.patches[image]]
        values = found[image][found[image] > 0]
        assert inside.min() - 1e-5 <= values.min()
        assert values.max() <= inside.max() + 1e-5


def test_an_even_map_stays_even_up_to_the_border():
    layout = tile_layout((16, 16), (16, 16))
    pixels = torch.zeros(1, 16, 16, dtype=torch.bool)
    pixels[:, :, :8] = True
    found = to_pixels(torch.full((1, 4, 4), 0.7), layout, True, inspected_patches(pixels, layout, PATCH))
    torch.testing.assert_close(found, 0.7 * pixels)


def test_the_class_score_is_that_of_tiles_with_something_inside():
    layout = tile_layout((16, 48), (16, 16))
    pixels = torch.zeros(1, 16, 48, dtype=torch.bool)
    pixels[:, :, :16] = True
    inspected = inspected_patches(pixels, layout, PATCH)
    nothing = torch.zeros(1, 12, 4)
    only_class = ScoreWeights(1.0, 1.0, 1.0, 0.0, 0.0)
    found = fuse(torch.tensor([[0.2, 0.9, 0.8]]), None, nothing, only_class, layout, True, inspected)
    torch.testing.assert_close(found.images, torch.tensor([0.2]))


@patient
@given(seed=st.integers(0, 999))
def test_adapters_are_those_fitted_to_the_patches_inside_alone(seed):
    task = some_task(images=1, patches=16, seed=seed)
    inside = torch.rand(1, 16, generator=torch.Generator().manual_seed(seed)) > 0.4
    inside[0, :2] = True
    inspected = Inspected(torch.ones(1, 16, 16, dtype=torch.bool), inside.view(1, 4, 4))
    covered = covered_inside(task.pseudo_mask, inspected)
    start = initial_adapter(task.tokens.shape[2], torch.Generator().manual_seed(1))
    of_all = task._replace(pseudo_mask=covered, joint_map=task.joint_map.where(inside, 0), inside=inside)
    found = fit_adapters(start, of_all, AdaptationSettings())
    if (covered & ~inside).any():
        return
    some = inside[0]
    alone = task._replace(
        tokens=task.tokens[:, some],
        pseudo_tokens=task.pseudo_tokens[:, some],
        pseudo_mask=covered[:, some],
        joint_map=task.joint_map[:, some],
    )
    for one, other in zip(found, fit_adapters(start, alone, AdaptationSettings()), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_a_pseudo_anomaly_that_lies_outside_still_counts():
    covered = torch.tensor([[True, True, False], [True, False, True]])
    inside = torch.tensor([[False, False, True], [True, False, False]])
    inspected = Inspected(inside, inside.unsqueeze(1))
    assert covered_inside(covered, inspected).tolist() == [[True, True, False], [True, False, False]]
    assert covered_inside(covered, None) is covered
