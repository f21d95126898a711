import torch
import torch.nn.functional as F  # noqa: N812

from dual_image_clip.method import Adapters, adapted_scores
from training.adapters import draw_adapters, fit_images, task_of_product


def product(seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    tokens = F.normalize(torch.randn(4, 9, 8, generator=rng), dim=2)
    tokens[3] = tokens[1]
    tokens[3, 4] = F.normalize(torch.randn(8, generator=rng), dim=0)
    defective = torch.zeros(4, 9, dtype=torch.bool)
    defective[3, 4] = True
    defective[2, :2] = True
    difference = torch.randn(8, generator=rng)
    return task_of_product(tokens, defective, torch.rand(4, 9, generator=rng), difference, temperature=0.5)


def test_images_start_with_the_same_adapter():
    adapters = draw_adapters(5, 8, torch.Generator().manual_seed(0))
    assert [each.shape for each in adapters] == [(5, 8, 8), (5, 8)]
    for each in adapters:
        torch.testing.assert_close(each, each[:1].expand_as(each), rtol=0, atol=0)
    other = draw_adapters(5, 8, torch.Generator().manual_seed(1))
    assert not torch.equal(other.weight, adapters.weight)


def test_every_image_is_told_from_the_copy_where_that_was_corrupted():
    task = product()
    for image in range(4):
        torch.testing.assert_close(task.pseudo_tokens[image], task.tokens[3])
        assert task.pseudo_mask[image].nonzero().flatten().tolist() == [4]
    scores = (task.text_embeddings[1] - task.text_embeddings[0]) / 0.5
    identity = Adapters(torch.eye(8).expand(4, 8, 8), torch.zeros(4, 8))
    torch.testing.assert_close(adapted_scores(task.tokens, identity, task), (task.tokens @ scores).sigmoid())


def test_fitting_changes_the_product_and_lifts_its_pseudo_anomaly():
    task = product()
    adapters = draw_adapters(8, 8, torch.Generator().manual_seed(0))
    before = Adapters(*(each.clone() for each in adapters))
    fit_images(adapters, slice(4, 8), task)
    torch.testing.assert_close(adapters.weight[:4], before.weight[:4], rtol=0, atol=0)
    assert (adapters.weight[4:] != before.weight[4:]).flatten(1).any(dim=1).all()
    assert not adapters.weight.requires_grad

    def stands_out(adapters: Adapters) -> float:
        own = Adapters(*(each[4:] for each in adapters))
        good, copy = (adapted_scores(tokens, own, task)[1, 4] for tokens in (task.tokens, task.pseudo_tokens))
        return float(copy - good)

    assert stands_out(adapters) > stands_out(before)
