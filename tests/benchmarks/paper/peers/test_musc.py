import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from torch import Tensor

from benchmarks.paper.peers import clip
from benchmarks.paper.peers.musc import (
    DEGREES,
    aggregate_neighbourhood,
    distances_to_all_others,
    distances_to_references,
    encode,
    equally_spaced_layers,
    interval_average,
    rescore,
    score_pairs,
    score_set,
)
from tests.helpers import assert_same

pytestmark = pytest.mark.open_clip

ROWS, COLUMNS, CHANNELS = 3, 4, 5
IMAGE_SIZE = (6, 8)


def some_layer_tokens(images: int = 4, layers: int = 2, seed: int = 0) -> Tensor:
    shape = (images, layers, ROWS, COLUMNS, CHANNELS)
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def some_features(images: int, patches: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(
        torch.randn(images, patches, CHANNELS, generator=torch.Generator().manual_seed(seed)).double(), dim=-1
    )


def some_class_tokens(images: int, seed: int = 5) -> Tensor:
    """Class tokens that look alike, as those of one category do."""
    tokens = 1 + 0.5 * torch.randn(images, 6, generator=torch.Generator().manual_seed(seed))
    return F.normalize(tokens, dim=-1)


# The paper's equations on numbers, in loops


def literal_aggregation(tokens: np.ndarray, degree: int) -> np.ndarray:
    """Layer norm over the image, the mean of what is around a patch, length one; (h, w, C) -> (h w, C)."""
    tokens = (tokens - tokens.mean()) / math.sqrt(tokens.var() + 1e-5)
    features = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            total = np.zeros(CHANNELS)
            for i in range(row - degree // 2, row + degree // 2 + 1):
                for j in range(column - degree // 2, column + degree // 2 + 1):
                    if 0 <= i < ROWS and 0 <= j < COLUMNS:
                        total += tokens[i, j]
            features.append(total / degree**2)
    return np.array([feature / math.sqrt((feature**2).sum()) for feature in features])


def literal_patch_scores(features: list[np.ndarray], image: int, others: list[int]) -> list[float]:
    """MSM: for each patch its distance to the nearest patch of each other image, and the mean of the lowest 30 %."""
    scores = []
    for patch in features[image]:
        distances = sorted(
            min(math.sqrt(((patch - other) ** 2).sum()) for other in features[reference]) for reference in others
        )
        lowest = distances[: max(1, math.floor(0.3 * len(distances)))]
        scores.append(sum(lowest) / len(lowest))
    return scores


def literal_map(layer_tokens: Tensor, image: int, others: list[int]) -> np.ndarray:
    """The mean over degrees of the mean over layers, at pixels."""
    of_degrees = []
    for degree in (1, 3, 5):
        of_layers = []
        for layer in range(layer_tokens.shape[1]):
            features = [literal_aggregation(each[layer].double().numpy(), degree) for each in layer_tokens]
            of_layers.append(literal_patch_scores(features, image, others))
        of_degrees.append(np.mean(of_layers, axis=0))
    return zoom(np.mean(of_degrees, axis=0).reshape(ROWS, COLUMNS), 2, order=1)


def literal_rescoring(scores: list[float], class_tokens: Tensor) -> list[float]:
    """RsCIN with whole matrices: similarities, all but the k largest of a row masked, rows brought to a sum of one."""
    scaled = [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]
    similarity = (class_tokens.double() @ class_tokens.double().T).tolist()
    rescored = []
    for row in similarity:
        of_sizes = []
        for size in (1, 2, 3):
            threshold = sorted(row, reverse=True)[size - 1]
            masked = [each if each >= threshold else 0.0 for each in row]
            of_sizes.append(sum(w * s for w, s in zip(masked, scaled, strict=True)) / sum(masked))
        rescored.append(sum(of_sizes) / 3)
    return rescored


# Parts


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(12, (3, 6, 9, 12)), (24, (6, 12, 18, 24)), (5, (1, 3, 4, 5)), (4, (1, 2, 3, 4)), (3, (1, 2, 3)), (1, (1,))],
)
def test_layers_are_the_ends_of_the_quarters(depth, layers):
    assert equally_spaced_layers(depth) == layers


@given(st.integers(4, 100))
def test_layers_are_four_and_end_with_the_last(depth):
    layers = equally_spaced_layers(depth)
    assert len(layers) == 4
    assert layers[-1] == depth
    steps = np.diff((0, *layers))
    assert steps.max() - steps.min() <= 1


def test_encoding_is_the_ordinary_path_at_those_layers(tiny_clip):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens, expected = encode(tiny_clip.visual, images), clip.ordinary_path(tiny_clip.visual, images, (1, 2, 3))
    assert tokens.layer_tokens.shape == (2, 3, 4, 4, 48)
    assert all(torch.equal(*pair) for pair in zip(tokens, expected, strict=True))


@pytest.mark.parametrize("degree", DEGREES)
def test_neighbourhoods_are_aggregated_as_in_the_loops(degree):
    tokens = some_layer_tokens()[:, 0]
    features = aggregate_neighbourhood(tokens, degree)
    assert features.shape == (4, ROWS * COLUMNS, CHANNELS)
    for image in range(4):
        expected = literal_aggregation(tokens[image].double().numpy(), degree)
        np.testing.assert_allclose(features[image], expected, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 2, -1])
def test_degrees_that_have_no_middle_are_refused(degree):
    with pytest.raises(ValueError, match="odd number above zero"):
        aggregate_neighbourhood(some_layer_tokens()[:, 0], degree)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_interval_average_is_the_mean_of_the_lowest_three_tenths(count, seed):
    distances = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    averages = interval_average(distances)
    for row, average in zip(distances.tolist(), averages.tolist(), strict=True):
        lowest = sorted(row)[: max(1, 3 * count // 10)]
        assert average == pytest.approx(sum(lowest) / len(lowest), abs=1e-6)


@pytest.mark.parametrize("images", [2, 3, 20, 35])
def test_distances_are_those_of_cdist(images):
    features = some_features(images)
    distances = distances_to_all_others(features)
    everyone = torch.tensor([[other for other in range(images) if other != image] for image in range(images)])
    assert distances.shape == (images, 6, images - 1)
    for image in range(images):
        for place, other in enumerate(everyone[image]):
            expected = torch.cdist(features[image], features[other]).amin(dim=1)
            torch.testing.assert_close(distances[image, :, place], expected)
    torch.testing.assert_close(distances_to_references(features, everyone), distances)


def test_distances_to_references_keep_their_order():
    features = some_features(4)
    references = torch.tensor([[3, 1], [0, 2], [1, 0], [2, 1]])
    distances = distances_to_references(features, references)
    flipped = distances_to_references(features, references.flip(1))
    torch.testing.assert_close(distances, flipped.flip(-1))
    assert not torch.allclose(distances, flipped)


def test_rescoring_is_the_literal_one():
    scores, tokens = torch.rand(9, generator=torch.Generator().manual_seed(1)), some_class_tokens(9)
    expected = literal_rescoring(scores.tolist(), tokens)
    assert rescore(scores, tokens).tolist() == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_rescoring_stays_within_the_scores_whatever_the_images(images, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(images, generator=generator)
    tokens = F.normalize(torch.randn(images, 4, generator=generator), dim=-1)
    rescored = rescore(scores, tokens)
    assert rescored.min() >= -1e-6
    assert rescored.max() <= 1 + 1e-6
    # A larger unit or another zero point changes nothing.
    assert_same(rescore(3 * scores + 7, tokens), rescored, 1e-4)


def test_rescoring_leaves_an_image_alone_that_looks_like_no_other():
    scores = torch.tensor([0.2, 0.9, 0.4])
    torch.testing.assert_close(rescore(scores, torch.eye(3)), (scores - 0.2) / 0.7)


def test_rescoring_gives_images_that_look_the_same_the_same_score():
    tokens = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    scores = torch.tensor([0.0, 0.1, 0.2, 1.0])
    assert rescore(scores, tokens)[3] == 1
    assert (rescore(scores, tokens)[:3] < 0.2).all()


def test_rescoring_of_equal_scores_is_zero():
    assert rescore(torch.full((4,), 0.3), some_class_tokens(4)).tolist() == [0, 0, 0, 0]


# The whole


@pytest.mark.parametrize("images", [2, 8])
def test_scores_of_a_set_are_those_of_the_loops(images):
    layer_tokens, class_tokens = some_layer_tokens(images), some_class_tokens(images)
    scores = score_set(layer_tokens, class_tokens, IMAGE_SIZE)
    maps = [
        literal_map(layer_tokens, image, [other for other in range(images) if other != image])
        for image in range(images)
    ]
    np.testing.assert_allclose(scores.maps, maps, atol=1e-5)
    if images >= 3:
        expected = literal_rescoring([each.max() for each in maps], class_tokens)
        assert scores.images.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "references",
    [
        [1, 2, 3, 0],
        [[1], [2], [3], [0]],
        [[1, 2], [2, 3], [3, 0], [0, 1]],
        [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]],
    ],
    ids=["flat", "one", "two", "all"],
)
def test_scores_of_pairs_are_those_of_the_loops(references):
    layer_tokens = some_layer_tokens(4)
    scores = score_pairs(layer_tokens, torch.tensor(references), IMAGE_SIZE)
    for image, others in enumerate(references):
        expected = literal_map(layer_tokens, image, others if isinstance(others, list) else [others])
        np.testing.assert_allclose(scores.maps[image], expected, atol=1e-5)
        assert scores.images[image].item() == pytest.approx(expected.max(), abs=1e-5)


def test_all_others_as_references_give_the_maps_of_the_set():
    layer_tokens = some_layer_tokens(20, layers=1)
    others = torch.tensor([[other for other in range(20) if other != image] for image in range(20)])
    pairs = score_pairs(layer_tokens, others, IMAGE_SIZE)
    whole = score_set(layer_tokens, some_class_tokens(20), IMAGE_SIZE)
    assert_same(pairs.maps, whole.maps)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(5)), st.integers(0, 1000))
def test_the_order_of_a_set_does_not_matter(order, seed):
    layer_tokens, class_tokens = some_layer_tokens(5, seed=seed), some_class_tokens(5, seed)
    scores = score_set(layer_tokens, class_tokens, IMAGE_SIZE)
    shuffled = score_set(layer_tokens[list(order)], class_tokens[list(order)], IMAGE_SIZE)
    assert_same(shuffled.maps, scores.maps[list(order)], 1e-4)
    assert_same(shuffled.images, scores.images[list(order)], 1e-3)


def test_an_odd_patch_stands_out():
    good = some_layer_tokens(1).expand(6, -1, -1, -1, -1)
    layer_tokens = good + 0.05 * some_layer_tokens(6, seed=1)
    layer_tokens[2, :, 0, 3] += 6 * torch.tensor([1, -1, 1, -1, 1])
    scores = score_set(layer_tokens, some_class_tokens(6), IMAGE_SIZE)
    assert scores.maps[2].argmax() == IMAGE_SIZE[1] - 1
    assert scores.maps.amax(dim=(1, 2)).argmax() == 2
    partner = score_pairs(layer_tokens, torch.tensor([1, 0, 0, 0, 0, 0]), IMAGE_SIZE)
    assert partner.images.argmax() == 2


def test_a_copy_has_no_anomalies():
    layer_tokens = some_layer_tokens(1).expand(3, -1, -1, -1, -1)
    assert score_pairs(layer_tokens, torch.tensor([1, 2, 0]), IMAGE_SIZE).maps.max() < 2e-3


@pytest.mark.parametrize("references", [torch.tensor([1, 0]), torch.zeros(4, 0, dtype=torch.long), torch.tensor(1)])
def test_references_of_another_shape_are_refused(references):
    with pytest.raises(ValueError, match="references must have shape"):
        score_pairs(some_layer_tokens(4), references, IMAGE_SIZE)


@pytest.mark.parametrize("reference", [-1, 3])
def test_references_that_do_not_exist_are_refused(reference):
    with pytest.raises(ValueError, match=r"indices in 0\.\.2"):
        score_pairs(some_layer_tokens(3), torch.tensor([1, 2, reference]), IMAGE_SIZE)


def test_an_image_as_its_own_reference_is_refused():
    with pytest.raises(ValueError, match="own reference"):
        score_pairs(some_layer_tokens(3), torch.tensor([[1, 2], [0, 1], [0, 1]]), IMAGE_SIZE)


def test_a_single_image_is_refused():
    with pytest.raises(ValueError, match="at least two images"):
        score_set(some_layer_tokens(1), some_class_tokens(1), IMAGE_SIZE)


def test_nothing_large_is_kept_at_once(monkeypatch):
    """No tensor of all pairs of patches of all pairs of images is ever made."""
    largest = 0
    original = Tensor.__matmul__

    def measured(first: Tensor, second: Tensor) -> Tensor:
        nonlocal largest
        result = original(first, second)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(Tensor, "__matmul__", measured)
    features = some_features(60)
    distances_to_all_others(features)
    distances_to_references(features, torch.arange(60).roll(1).unsqueeze(1).expand(60, 40))
    assert 0 < largest <= 16 * 6 * 6
