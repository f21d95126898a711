import doctest
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dual_image_clip.method import (
    aggregate_references,
    scoring,
    text_anomaly_score,
    visual_anomaly_map,
    visual_anomaly_maps,
)
from tests.helpers import assert_same, uniform, unit_vectors

patient = settings(deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 4)


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
    assert_same(text_anomaly_score(tokens, texts.flip(0), temperature), 1 - scores)


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
    assert_same(copy, torch.zeros(2, 3, 4), 1e-6)
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
