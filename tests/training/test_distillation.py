import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from training.distillation import FeatureHeads, distance_loss, distances_to, relation_loss
from training.image_tower import chosen_references, reference_distances

SEEDS = st.integers(0, 1000)


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(SEEDS)
def test_relation_loss_is_the_divergence_of_each_patch_from_the_teachers(seed):
    mine, first, second = (tokens(seed + index, 2, 5, 6 + index) for index in range(3))
    flat = [each.flatten(0, 1).double().numpy() for each in (mine, first, second)]
    expected = []
    for patch in range(10):
        others = [other for other in range(10) if other != patch]
        student = softmax([10 * flat[0][patch] @ flat[0][other] for other in others])
        teachers = [np.mean([each[patch] @ each[other] for each in flat[1:]]) for other in others]
        expected.append(rel_entr(softmax(10 * np.array(teachers)), student).sum())
    found = relation_loss(mine, [first, second], torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4, abs=1e-6)


def test_relation_loss_vanishes_for_a_turned_copy_of_the_teacher():
    teacher = tokens(0, 2, 9, 8)
    turned = teacher @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    assert float(relation_loss(turned, [teacher], torch.Generator())) == pytest.approx(0, abs=1e-6)


def test_relation_loss_teaches_the_likenesses():
    teacher, student = tokens(0, 2, 9, 8), tokens(1, 2, 9, 8).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        relation_loss(F.normalize(student, dim=-1), [teacher], torch.Generator()).backward()
        optimizer.step()
    mine, wanted = (each.flatten(0, 1) for each in (F.normalize(student.detach(), dim=-1), teacher))
    assert np.corrcoef((mine @ mine.T).flatten(), (wanted @ wanted.T).flatten())[0, 1] > 0.95


@given(SEEDS)
def test_distance_loss_is_one_minus_the_correlation_within_a_product(seed):
    mine, wanted = (torch.randn(3, 20, generator=torch.Generator().manual_seed(seed + each)) for each in (0, 1))
    expected = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(mine, wanted, strict=True)])
    assert float(distance_loss(mine, wanted)) == pytest.approx(expected, abs=1e-5)
    assert float(distance_loss(3 * wanted + 1, wanted)) == pytest.approx(0, abs=1e-5)


@given(SEEDS)
def test_distances_of_one_teacher_are_those_that_the_drawn_products_are_trained_on(seed):
    patches, pairs = tokens(seed, 8, 5, 6), np.array([[0, 1, 0, 1], [0, 1, 2, 3]])
    expected = reference_distances(patches, pairs, 3, np.random.default_rng(seed))
    references = torch.from_numpy(chosen_references(pairs, 3, np.random.default_rng(seed)))
    torch.testing.assert_close(distances_to([patches], references).flatten(), expected.flatten())


def test_distances_of_two_teachers_are_those_of_their_tokens_side_by_side():
    first, second = tokens(0, 4, 5, 6), tokens(1, 4, 5, 7)
    references = ~torch.eye(4, dtype=torch.bool).unsqueeze(0)
    together = F.normalize(torch.cat([first, second], dim=-1), dim=-1)
    torch.testing.assert_close(distances_to([first, second], references), distances_to([together], references))


def test_heads_learn_what_can_be_read_from_the_tokens():
    torch.manual_seed(0)
    patches, readable = tokens(0, 2, 50, 8), tokens(1, 8, 4)
    heads = FeatureHeads(8, [4])
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = heads.loss(patches, [patches @ readable])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert heads.loss(patches, [tokens(2, 2, 50, 4)]).item() > 0.5
