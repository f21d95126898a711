import doctest
import math
import statistics

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dual_image_clip.method import scoring
from dual_image_clip.method.fusion import ScoreWeights, fuse_maps, fuse_scores, joint_anomaly_map, upsample_map
from dual_image_clip.method.scoring import (
    aggregate_references,
    text_anomaly_score,
    visual_anomaly_map,
    visual_anomaly_maps,
)

patient = settings(deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 4)
weights_of_users = st.builds(ScoreWeights, *[st.floats(0, 4)] * 5)


def unit_vectors(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_examples_in_docstrings_run():
    result = doctest.testmod(scoring)
    assert result.attempted > 0
    assert result.failed == 0


# Eq. 1-3


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4), (2, 0)], ids=str)
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_text_score_is_the_two_way_softmax(shape, temperature):
    tokens = unit_vectors(*shape, 8)
    texts = unit_vectors(2, 8, seed=1)
    scores = text_anomaly_score(tokens, texts, temperature)
    assert scores.shape == shape
    for token, score in zip(tokens.reshape(-1, 8), scores.flatten(), strict=True):
        normal, anomalous = (
            math.exp(sum(a * b for a, b in zip(token.tolist(), text, strict=True)) / temperature)
            for text in texts.tolist()
        )
        assert score.item() == pytest.approx(anomalous / (normal + anomalous), abs=1e-5)


@patient
@given(seeds, st.floats(1e-4, 100))
def test_text_score_is_a_probability_that_swaps_with_its_texts(seed, temperature):
    tokens, texts = unit_vectors(6, 5, seed=seed), unit_vectors(2, 5, seed=seed + 1)
    scores = text_anomaly_score(tokens, texts, temperature)
    assert ((scores >= 0) & (scores <= 1)).all()
    torch.testing.assert_close(text_anomaly_score(tokens, texts.flip(0), temperature), 1 - scores, atol=1e-5, rtol=0)


def test_text_score_says_which_text_is_the_anomalous_one():
    scores = text_anomaly_score(torch.eye(3), torch.eye(3)[:2], temperature=0.01)
    assert scores.tolist() == pytest.approx([0, 1, 0.5])


@pytest.mark.parametrize("shape", [(3, 8), (1, 8), (2, 7), (8,), (2, 8, 1)], ids=str)
def test_text_embeddings_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"text_embeddings must have shape \(2, 8\), got") as caught:
        text_anomaly_score(torch.zeros(4, 8), torch.zeros(shape), 0.01)
    assert str(shape) in str(caught.value)


# Eq. 5


@patient
@given(seed=seeds, batch=sizes, height=sizes, width=sizes, references=st.integers(1, 7), dim=sizes)
def test_visual_map_equals_a_loop(seed, batch, height, width, references, dim):
    query = unit_vectors(batch, height, width, dim, seed=seed)
    others = unit_vectors(batch, references, dim, seed=seed + 1)
    actual = visual_anomaly_map(query, others)
    assert actual.shape == (batch, height, width)
    assert ((actual >= 0) & (actual <= 2)).all()
    for image in range(batch):
        for y in range(height):
            for x in range(width):
                distances = [1 - float(query[image, y, x] @ reference) for reference in others[image]]
                assert actual[image, y, x].item() == pytest.approx(min(distances), abs=1e-5)


def test_visual_map_of_a_copy_is_zero_and_of_the_opposite_is_two():
    query = unit_vectors(2, 3, 4, 16)
    copy = visual_anomaly_map(query, query.flatten(1, 2))
    torch.testing.assert_close(copy, torch.zeros(2, 3, 4), atol=1e-6, rtol=0)
    patch = query[:, :1, :1]
    assert visual_anomaly_map(patch, -patch.flatten(1, 2)).flatten().tolist() == pytest.approx([2, 2])


def test_images_see_their_own_references_only():
    query = unit_vectors(2, 1, 1, 16)
    distances = visual_anomaly_map(query, query.flatten(1, 2).flip(0)).flatten()
    assert (distances > 0.1).all()


@pytest.mark.parametrize("shape", [(2, 0, 8), (1, 5, 8), (3, 5, 8), (2, 5, 7), (5, 8), (2, 5, 1, 8)], ids=str)
def test_references_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"references must have shape \(2, R, 8\) with R ≥ 1, got") as caught:
        visual_anomaly_map(torch.zeros(2, 3, 4, 8), torch.zeros(shape))
    assert str(shape) in str(caught.value)


# Several references

AGGREGATIONS = ("minimum", "lowest_third", "median")


@patient
@given(seed=seeds, batch=sizes, dim=sizes, patches=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_distances_to_each_reference_are_those_to_it_alone(seed, batch, dim, patches):
    query = unit_vectors(batch, 2, 3, dim, seed=seed)
    references = [unit_vectors(batch, count, dim, seed=seed + 1 + place) for place, count in enumerate(patches)]
    actual = visual_anomaly_maps(query, references)
    assert actual.shape == (batch, len(patches), 2, 3)
    for place, reference in enumerate(references):
        torch.testing.assert_close(actual[:, place], visual_anomaly_map(query, reference))
    nearest_of_all = visual_anomaly_map(query, torch.cat(references, dim=1))
    torch.testing.assert_close(aggregate_references(actual, "minimum"), nearest_of_all, atol=1e-6, rtol=1e-5)


def test_no_reference_is_refused():
    with pytest.raises(ValueError, match="references must not be empty"):
        visual_anomaly_maps(unit_vectors(1, 2, 2, 4), [])


def literal_aggregation(distances: list[float], aggregation: str) -> float:
    in_order = sorted(distances)
    if aggregation == "minimum":
        return in_order[0]
    if aggregation == "median":
        return statistics.median(in_order)
    lowest = [value for place, value in enumerate(in_order) if 3 * (place + 1) <= len(in_order)] or in_order[:1]
    return sum(lowest) / len(lowest)


@patient
@given(seed=seeds, batch=sizes, references=st.integers(1, 13), height=sizes, width=sizes)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregation_equals_a_loop(aggregation, seed, batch, references, height, width):
    maps = 2 * uniform(batch, references, height, width, seed=seed)
    before = maps.clone()
    actual = aggregate_references(maps, aggregation)
    assert actual.shape == (batch, height, width)
    assert torch.equal(maps, before)
    for image in range(batch):
        for y in range(height):
            for x in range(width):
                expected = literal_aggregation(maps[image, :, y, x].tolist(), aggregation)
                assert actual[image, y, x].item() == pytest.approx(expected, abs=1e-6)


@patient
@given(seed=seeds, references=st.integers(3, 12), data=st.data())
def test_fewer_than_half_of_the_references_cannot_move_the_median_beyond_the_others(seed, references, data):
    spoilt = data.draw(st.integers(1, (references - 1) // 2))
    maps = 2 * uniform(1, references, 2, 2, seed=seed)
    others = maps[:, spoilt:]
    for value in (0.0, 2.0):
        maps[:, :spoilt] = value
        median = aggregate_references(maps, "median")
        assert (median >= others.amin(dim=1) - 1e-6).all()
        assert (median <= others.amax(dim=1) + 1e-6).all()


@pytest.mark.parametrize(
    ("references", "peaks"), [(1, (0, 0, 0)), (3, (0, 0, 1)), (6, (0, 0.5, 1)), (9, (0, 2 / 3, 1))], ids=str
)
def test_one_reference_that_shares_a_defect(references, peaks):
    maps = torch.ones(1, references, 1, 1)
    maps[:, -1] = 0
    actual = [aggregate_references(maps, aggregation).item() for aggregation in AGGREGATIONS]
    assert actual == pytest.approx(peaks)


@pytest.mark.parametrize("aggregation", ["", "mean", "Minimum", "max"])
def test_unknown_aggregations_are_refused(aggregation):
    with pytest.raises(ValueError, match="is unknown; choose one of 'minimum', 'lowest_third', 'median'") as caught:
        aggregate_references(torch.zeros(1, 1, 1, 1), aggregation)
    assert repr(aggregation) in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 0, 2, 2), (2, 2, 2), (1, 1, 1, 2, 2)], ids=str)
def test_distances_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"maps must have shape \(B, R, h, w\) with R ≥ 1, got"):
        aggregate_references(torch.zeros(shape), "median")


# Eq. 6, 12 and 13

PRIMES = ScoreWeights(2.0, 3.0, 5.0, 7.0, 11.0)


def test_joint_map_is_the_plain_sum():
    visual, language = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1)
    torch.testing.assert_close(joint_anomaly_map(visual, language), visual + language)
    torch.testing.assert_close(joint_anomaly_map(None, language), language)


def test_fused_map_is_eq_12():
    visual, text = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1)
    torch.testing.assert_close(fuse_maps(visual, text, PRIMES), 2 * visual + 3 * text)
    torch.testing.assert_close(fuse_maps(None, text, PRIMES), 3 * text)


def test_fused_score_is_eq_13():
    visual, text, of_class = 2 * uniform(2, 3, 4), uniform(2, 3, 4, seed=1), uniform(2, seed=2)
    actual = fuse_scores(of_class, visual, text, PRIMES)
    without_visual = fuse_scores(of_class, None, text, PRIMES)
    assert actual.shape == without_visual.shape == (2,)
    for image in range(2):
        largest_visual = max(visual[image].flatten().tolist())
        largest_text = max(text[image].flatten().tolist())
        expected = 5 * of_class[image].item() + 11 * largest_text
        assert without_visual[image].item() == pytest.approx(expected, rel=1e-5)
        assert actual[image].item() == pytest.approx(expected + 7 * largest_visual, rel=1e-5)


def test_default_weights_are_those_of_the_paper():
    assert ScoreWeights() == (1.0, 1.5, 1.0, 1.0, 1.0)
    assert ScoreWeights().map_maximum == pytest.approx(3.5)
    assert ScoreWeights().score_maximum == pytest.approx(4)


@patient
@given(weights=weights_of_users, seed=seeds, without_visual=st.booleans())
def test_maxima_are_upper_bounds(weights, seed, without_visual):
    visual = None if without_visual else 2 * uniform(3, 2, 2, seed=seed)
    text, of_class = uniform(3, 2, 2, seed=seed + 1), uniform(3, seed=seed + 2)
    tolerance = 1e-5
    assert fuse_maps(visual, text, weights).max() <= weights.map_maximum + tolerance
    assert fuse_scores(of_class, visual, text, weights).max() <= weights.score_maximum + tolerance


@patient
@given(weights=weights_of_users)
def test_maxima_are_reached_by_the_worst_image(weights):
    worst = torch.ones(1, 2, 2)
    assert fuse_maps(2 * worst, worst, weights).max().item() == pytest.approx(weights.map_maximum, abs=1e-5)
    score = fuse_scores(torch.ones(1), 2 * worst, worst, weights)
    assert score.item() == pytest.approx(weights.score_maximum, abs=1e-5)


# Patches to pixels


def literal_mean_of_neighbours(maps: Tensor) -> Tensor:
    smoothed = torch.empty_like(maps)
    _, height, width = maps.shape
    for y in range(height):
        for x in range(width):
            neighbours = [
                maps[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
            ]
            smoothed[:, y, x] = sum(neighbours) / 9
    return smoothed


@patient
@given(seed=seeds, height=sizes, width=sizes, size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_upsampled_map_equals_a_literal_one(seed, height, width, size):
    maps = uniform(2, height, width, seed=seed)

    def bilinear(values: Tensor) -> Tensor:
        return F.interpolate(values[:, None], size, mode="bilinear", align_corners=True)[:, 0]

    smooth, plain = upsample_map(maps, size), upsample_map(maps, size, smooth=False)
    assert smooth.shape == plain.shape == (2, *size)
    torch.testing.assert_close(smooth, bilinear(literal_mean_of_neighbours(maps)))
    torch.testing.assert_close(plain, bilinear(maps))
    for each in (smooth, plain):
        assert each.min() >= maps.min() - 1e-6
        assert each.max() <= maps.max() + 1e-6


def test_corners_keep_their_values_without_smoothing():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    pixels = upsample_map(maps, (5, 7), smooth=False)
    assert pixels[0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist() == pytest.approx([1, 2, 3, 4])
    assert pixels[0, 2, 3].item() == pytest.approx(2.5)
