import numpy as np
import pytest
import torch
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.paper.images import CategoryImages
from benchmarks.paper.metrics import compute_metrics
from benchmarks.paper.peers.scores import Scores
from benchmarks.paper.results import METRICS


@pytest.fixture
def category():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(9, 12, 10, dtype=torch.bool)
    masks[4:, 2:6, 1:5] = True
    masks[6:, 8:11, 6:9] = True
    return CategoryImages(
        torch.rand(9, 3, 12, 10, generator=generator), masks.flatten(1).any(1), masks, list("abcdefghi"), "plate"
    )


@pytest.fixture
def scores(category):
    """Some of them right, with many that are equal."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(category.masks.shape, generator=generator)
    maps = ((noise + 0.5 * category.masks) * 25).round() / 25
    images = 0.7 * category.labels + torch.rand(9, generator=generator)
    return Scores(images.round(decimals=1), maps)


def largest_f1(truth, values):
    """By trying every threshold."""
    counts = [(values >= threshold, truth) for threshold in np.unique(values)]
    return max(2 * (guess & truth).sum() / (guess.sum() + truth.sum()) for guess, truth in counts)


def area_under_pro(masks, maps, limit=0.3):
    """Mean overlap of the connected defects against the false-positive rate, up to 0.3."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == each) for each in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        guess = maps >= threshold
        overlap = np.mean([guess[index][region].mean() for index, region in regions])
        points.append((guess[~masks].mean(), overlap))
    rates, overlaps = map(np.array, zip(*points, strict=True))
    grid = np.linspace(0, limit, 10_001)
    return np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit


def test_metrics_are_those_of_scikit_learn_and_of_brute_force(category, scores):
    labels, values = category.labels.numpy(), scores.images.numpy()
    masks, maps = category.masks.numpy(), scores.maps.numpy()
    expected = {
        "image_AUROC": roc_auc_score(labels, values),
        "image_F1Max": largest_f1(labels, values),
        "image_AUPR": average_precision_score(labels, values),
        "pixel_AUROC": roc_auc_score(masks.ravel(), maps.ravel()),
        "pixel_F1Max": largest_f1(masks.ravel(), maps.ravel()),
    }
    measured = compute_metrics(scores, category)
    assert set(measured) == set(METRICS)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert measured["pixel_AUPRO"] == pytest.approx(area_under_pro(masks, maps), abs=0.01)
    assert 0.5 < measured["image_AUROC"] < 1
    assert 0.5 < measured["pixel_AUROC"] < 1


@pytest.mark.parametrize(("factor", "shift"), [(20.0, -7.0), (1e-3, 0.0), (1.0, 100.0)])
def test_only_the_order_of_scores_counts_not_their_range(factor, shift, category, scores):
    other = Scores(scores.images * factor + shift, scores.maps * factor + shift)
    assert compute_metrics(other, category) == pytest.approx(compute_metrics(scores, category), abs=1e-5)


def test_constant_scores_are_worth_nothing(category):
    measured = compute_metrics(Scores(torch.ones(9), torch.zeros(9, 12, 10)), category)
    assert measured["image_AUROC"] == measured["pixel_AUROC"] == 0.5


def test_without_masks_only_images_are_measured(category, scores):
    measured = compute_metrics(scores, category._replace(masks=None))
    assert set(measured) == {"image_AUROC", "image_F1Max", "image_AUPR"}
    assert measured.items() <= compute_metrics(scores, category).items()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(bad, category, scores):
    scores.maps[3, 4, 5] = bad
    with pytest.raises(ValueError, match="not finite"):
        compute_metrics(scores, category)
