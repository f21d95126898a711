import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from dual_image_clip.method import ScoreWeights, upsample_map
from dual_image_clip.method.fusion import fuse_maps
from training.image_tower import chosen_references, reference_distances
from training.losses import (
    balanced,
    contrastive_loss,
    dense_loss,
    joint_maps,
    label_patches,
    patch_ranking_loss,
    ranking_loss,
)


def test_patches_are_labelled_by_what_covers_them():
    labels = label_patches(torch.tensor([[0.0, 0.06, 0.03], [0.0, 0.02, 0.01], [0.0, 0.008, 0.0], [0.0, 0.0, 0.0]]))
    assert labels.patches.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert labels.counted.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert labels.images.tolist() == [1, 1, 0, 0]
    # Of the third image only a trace is left: neither good nor defective.
    assert labels.images_counted.tolist() == [1, 1, 0, 1]


@given(st.integers(0, 1000))
def test_balanced_is_the_mean_of_both_classes(seed):
    rng = np.random.default_rng(seed)
    logits, labels, weights = rng.normal(size=20), (rng.random(20) < 0.2).astype(int), rng.random(20) + 0.1
    labels[:2] = 0, 1
    probability = 1 / (1 + np.exp(-logits))
    expected = np.mean(
        [
            log_loss(
                labels[labels == each],
                probability[labels == each],
                sample_weight=weights[labels == each],
                labels=[0, 1],
            )
            for each in (0, 1)
        ]
    )
    found = balanced(*(torch.tensor(each, dtype=torch.float64) for each in (logits, labels, weights)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_balanced_with_one_class_only_is_finite():
    found = balanced(torch.zeros(4), torch.zeros(4), torch.ones(4))
    assert float(found) == pytest.approx(0.5 * np.log(2), rel=1e-5)


@pytest.mark.parametrize("ranking", [0.0, 1.0])
def test_dense_loss_falls_as_the_defect_lights_up(ranking):
    covered = torch.zeros(4, 4)
    covered[2, 2] = 0.9
    labels = label_patches(covered)
    right = torch.where(covered > 0, 3.0, -3.0)
    losses = [dense_loss(logits, labels, ranking) for logits in (right, torch.zeros_like(right), -right)]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] < losses[2]


@given(st.integers(0, 1000))
def test_patch_ranking_loss_is_the_mean_over_pairs_of_one_product(seed):
    rng = np.random.default_rng(seed)
    covered = torch.from_numpy(rng.choice([0.0, 0.0, 0.0, 0.03, 0.5], size=(8, 6)))
    logits, weights = (torch.from_numpy(rng.random((8, 6)) + 0.1) for _ in range(2))
    labels = label_patches(covered)
    total, weight = 0.0, 0.0
    for image, patch in labels.patches.nonzero().tolist():
        product = range(image // 4 * 4, image // 4 * 4 + 4)
        good = [logits[i, j] for i in product for j in range(6) if labels.counted[i, j] and not labels.patches[i, j]]
        if good:
            total += weights[image, patch] * np.mean([np.log1p(np.exp(each - logits[image, patch])) for each in good])
        weight += weights[image, patch]
    found = float(patch_ranking_loss(logits, labels, weights))
    assert found == pytest.approx(float(total / max(weight, 1e-6)), rel=1e-6)


def test_patch_ranks_do_not_care_how_suspicious_a_whole_product_looks():
    covered = torch.zeros(8, 5)
    covered[2, 1] = covered[7, 3] = 0.5
    labels, logits = label_patches(covered), torch.randn(8, 5)
    shifted = logits + torch.tensor([5.0, -3.0]).repeat_interleave(4).unsqueeze(1)
    weights = torch.ones(8, 5)
    torch.testing.assert_close(
        patch_ranking_loss(shifted, labels, weights), patch_ranking_loss(logits, labels, weights)
    )


def test_patches_that_are_neither_do_not_count():
    labels = label_patches(torch.tensor([[0.5, 0.03, 0.0]]))
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    probability = logits.sigmoid() * labels.counted
    assert probability[0, 1] == 0
    (grad,) = torch.autograd.grad(balanced(logits, labels.patches, labels.counted), logits)
    assert grad[0, 1] == 0
    assert grad[0, 0] < 0 < grad[0, 2]


def test_joint_map_is_the_detectors():
    visual, language = torch.rand(2, 5, 5), torch.rand(2, 5, 5)
    expected = upsample_map(fuse_maps(visual, language, ScoreWeights()), (5, 5))
    found = joint_maps(visual.flatten(1), language.flatten(1))
    torch.testing.assert_close(found.view(2, 5, 5), expected)


def test_ranking_loss_is_the_mean_over_pairs_of_one_product():
    scores = torch.tensor([[0.1, 0.4, 0.9, 0.2], [0.5, 0.5, 0.5, 0.5]])
    labels = label_patches(torch.tensor([0.0, 0.0, 0.9, 0.008, 0.0, 0.0, 0.0, 0.0]).unsqueeze(1))
    # Only one image shows a defect; the fourth is neither, the second product has none.
    expected = (F.softplus(torch.tensor(-2 * 0.8)) + F.softplus(torch.tensor(-2 * 0.5))) / 2
    torch.testing.assert_close(ranking_loss(scores, labels, torch.tensor(2.0)), expected)


def test_contrastive_loss_without_shared_texts_is_clips():
    images, texts = (F.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    logits = 7 * images @ texts.T
    expected = 0.5 * (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6)))
    torch.testing.assert_close(contrastive_loss(images, texts, torch.arange(6), torch.tensor(7.0)), expected)


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_nobody_is_compared_with_the_very_same_product(seed, most):
    rng = np.random.default_rng(seed)
    pairs = np.array([[0, 1, 0, 1], [0, 1, 2, 3], [3, 2, 1, 2]])
    chosen = chosen_references(pairs, most, rng)
    assert not chosen[pairs[:, :, None] == pairs[:, None, :]].any()
    available = (pairs[:, :, None] != pairs[:, None, :]).sum(axis=2)
    assert (chosen.sum(axis=2) >= 1).all()
    assert (chosen.sum(axis=2) <= np.minimum(most, available)).all()


def test_both_one_and_several_references_occur():
    pairs = np.tile(np.arange(4), (200, 1))
    counts = chosen_references(pairs, 3, np.random.default_rng(0)).sum(axis=2)
    assert set(np.unique(counts)) == {1, 2, 3}
    assert 0.55 < (counts == 1).mean() < 0.75


def test_reference_distance_is_that_of_the_nearest_patch_of_any_reference():
    tokens = F.normalize(torch.randn(8, 5, 6), dim=-1)
    pairs = np.array([[0, 1, 0, 1], [0, 1, 2, 3]])
    found = reference_distances(tokens, pairs, 3, np.random.default_rng(3))
    chosen = chosen_references(pairs, 3, np.random.default_rng(3))
    for product in range(2):
        for query in range(4):
            references = torch.cat([tokens[4 * product + other] for other in np.flatnonzero(chosen[product, query])])
            expected = 1 - (tokens[4 * product + query] @ references.T).amax(dim=1)
            torch.testing.assert_close(found[4 * product + query], expected)
