import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.steps.tried import (
    block_tokens,
    mean_map,
    neighbourhood_means,
    smoothed,
    visual_map,
    without_anomalous,
)
from tests.helpers import assert_same, uniform

patient = settings(deadline=None)
seeds = st.integers(0, 2**31)


def tokens_of(count: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    return F.normalize(uniform(count, rows, columns, 5, seed=seed) - 0.5, dim=-1)


@patient
@given(seed=seeds, rows=st.integers(1, 4), columns=st.integers(1, 4), side=st.sampled_from([1, 3, 5]))
def test_neighbourhood_is_the_mean_of_the_patches_that_exist(seed, rows, columns, side):
    tokens = tokens_of(2, rows, columns, seed)
    found = neighbourhood_means(tokens, side)
    reach = side // 2
    for y in range(rows):
        for x in range(columns):
            around = tokens[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].flatten(1, 2)
            assert_same(found[:, y, x], F.normalize(around.mean(dim=1), dim=-1), 1e-4)


@pytest.mark.parametrize("aggregation", ["minimum", "lowest_third", "median"])
def test_visual_map_is_the_distance_to_the_partners_alone(aggregation):
    tokens, references = tokens_of(3, 2, 3), tokens_of(4, 2, 3, seed=1)
    partners = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3]])
    found = visual_map(tokens, references, partners, aggregation)
    for image in range(3):
        for y in range(2):
            for x in range(3):
                ranked = sorted(
                    min(1 - float(tokens[image, y, x] @ other) for other in references[partner].flatten(0, 1))
                    for partner in partners[image]
                )
                expected = ranked[1] if aggregation == "median" else ranked[0]
                assert found[image, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_most_anomalous_patches_are_like_nothing():
    tokens, text_map = tokens_of(2, 5, 4), uniform(2, 5, 4, seed=1)
    kept = without_anomalous(tokens, text_map, 0.1)
    ranked = text_map.flatten().sort(descending=True).values
    for index in range(2):
        for y in range(5):
            for x in range(4):
                is_left_out = bool(text_map[index, y, x] >= ranked[3])
                assert torch.equal(kept[index, y, x], 0 * tokens[0, 0, 0] if is_left_out else tokens[index, y, x])
    assert torch.equal(without_anomalous(tokens, text_map, 0.0), tokens)


def test_tokens_behind_a_block_are_normalised_as_a_whole_image():
    raw = 3 * uniform(2, 3, 3, 4) + 1
    found = block_tokens(raw)
    for index in range(2):
        standard = (raw[index] - raw[index].mean()) / raw[index].std(correction=0)
        assert_same(found[index], standard / standard.norm(dim=-1, keepdim=True), 1e-4)


def test_maps_are_smoothed_and_averaged():
    patch_map = torch.zeros(1, 5, 5)
    patch_map[0, 2, 2] = 9
    expected = F.pad(torch.ones(1, 3, 3), (1, 1, 1, 1))
    assert_same(smoothed(patch_map), expected)
    assert_same(mean_map([patch_map, expected, expected]), (patch_map + 2 * expected) / 3)
