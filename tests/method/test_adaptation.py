import gc
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.stats import ks_2samp, kstest
from torch import Tensor, nn

from dual_image_clip.method import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    adapt_tokens,
    adapted_scores,
    fit_adapters,
    initial_adapter,
)
from dual_image_clip.method.adaptation import adaptation_loss, pseudo_anomaly_loss, similarity_loss
from tests.helpers import assert_same, seeded, uniform, unit_vectors
from tests.method.adaptation_tasks import DIM, IMAGES, PATCHES, some_adapters, some_task


def only(task: AdaptationTask, image: int) -> AdaptationTask:
    return task._replace(
        **{
            name: getattr(task, name)[image : image + 1]
            for name in ("tokens", "pseudo_tokens", "pseudo_mask", "joint_map")
        }
    )


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def cosine(first: list[float], second: list[float]) -> float:
    return dot(first, second) / math.sqrt(dot(first, first) * dot(second, second))


# Eq. 7-11 word by word, on numbers


def literal_adapted_token(token: Tensor, weight: Tensor, bias: Tensor) -> list[float]:
    mapped = [dot(row, token.tolist()) + b for row, b in zip(weight.tolist(), bias.tolist(), strict=True)]
    return [(g + q) / 2 for g, q in zip(mapped, token.tolist(), strict=True)]


def literal_score(token: list[float], texts: Tensor, temperature: float) -> float:
    normal, anomalous = (math.exp(cosine(token, text) / temperature) for text in texts.tolist())
    return anomalous / (normal + anomalous)


def literal_scores(tokens: Tensor, adapters: Adapters, task: AdaptationTask) -> list[list[float]]:
    return [
        [
            literal_score(literal_adapted_token(token, weight, bias), task.text_embeddings, task.temperature)
            for token in image
        ]
        for image, weight, bias in zip(tokens, *adapters, strict=True)
    ]


def literal_pseudo_loss(scores: list[float], pseudo_scores: list[float], mask: list[bool]) -> float:
    terms = [
        -math.log(math.exp(pseudo) / (math.exp(score) + math.exp(pseudo)))
        for score, pseudo, covered in zip(scores, pseudo_scores, mask, strict=True)
        if covered
    ]
    return sum(terms) / len(terms)


def test_adapted_tokens_are_eq_7_of_length_one():
    tokens, adapters = unit_vectors(IMAGES, PATCHES, DIM), some_adapters()
    adapted = adapt_tokens(tokens, adapters)
    assert adapted.shape == tokens.shape
    for image in range(IMAGES):
        for patch in range(PATCHES):
            expected = literal_adapted_token(tokens[image, patch], adapters.weight[image], adapters.bias[image])
            length = math.sqrt(dot(expected, expected))
            assert adapted[image, patch].tolist() == pytest.approx([value / length for value in expected], abs=1e-6)


def test_adapted_scores_are_eq_9():
    task, adapters = some_task(), some_adapters()
    expected = torch.tensor(literal_scores(task.tokens, adapters, task))
    assert_same(adapted_scores(task.tokens, adapters, task), expected)


def test_pseudo_loss_is_eq_10():
    scores, pseudo_scores, mask = uniform(IMAGES, PATCHES), uniform(IMAGES, PATCHES, seed=1), some_task().pseudo_mask
    losses = pseudo_anomaly_loss(scores, pseudo_scores, mask)
    assert losses.shape == (IMAGES,)
    rows = zip(scores.tolist(), pseudo_scores.tolist(), mask.tolist(), strict=True)
    assert losses.tolist() == pytest.approx([literal_pseudo_loss(*row) for row in rows], abs=1e-6)


def test_pseudo_loss_looks_at_covered_patches_only():
    scores, pseudo_scores, mask = uniform(IMAGES, PATCHES), uniform(IMAGES, PATCHES, seed=1), some_task().pseudo_mask
    losses = pseudo_anomaly_loss(scores, pseudo_scores, mask)
    torch.testing.assert_close(pseudo_anomaly_loss(scores, pseudo_scores.where(mask, 0.9), mask), losses)
    assert (pseudo_anomaly_loss(scores, pseudo_scores + 0.5 * mask, mask) < losses).all()


def test_similarity_loss_is_one_minus_the_cosine_of_the_maps():
    joint, adapted = 3 * uniform(IMAGES, PATCHES), uniform(IMAGES, PATCHES, seed=1)
    expected = [1 - cosine(a, b) for a, b in zip(joint.tolist(), adapted.tolist(), strict=True)]
    assert similarity_loss(joint, adapted).tolist() == pytest.approx(expected, abs=1e-6)


def test_similarity_loss_is_least_for_maps_that_agree():
    joint = uniform(IMAGES, PATCHES)
    assert similarity_loss(joint, 0.3 * joint).tolist() == pytest.approx([0] * IMAGES, abs=1e-6)
    assert (similarity_loss(joint, 1 - joint) > 0.01).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_objective_is_pseudo_loss_plus_beta_times_similarity_loss(beta):
    task, adapters = some_task(), some_adapters()
    scores = literal_scores(task.tokens, adapters, task)
    pseudo_scores = literal_scores(task.pseudo_tokens, adapters, task)
    masks, maps = task.pseudo_mask.tolist(), task.joint_map.tolist()
    expected = [
        literal_pseudo_loss(scores[image], pseudo_scores[image], masks[image])
        + beta * (1 - cosine(maps[image], scores[image]))
        for image in range(IMAGES)
    ]
    assert adaptation_loss(adapters, task, beta).tolist() == pytest.approx(expected, abs=1e-5)


# The fit


def fit_one_by_hand(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> nn.Linear:
    """One image, one nn.Linear and one stock optimiser."""
    adapter = nn.Linear(*start.weight.shape[1:])
    with torch.no_grad():
        adapter.weight.copy_(start.weight[0])
        adapter.bias.copy_(start.bias[0])
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, foreach=False)

    def score(tokens: Tensor) -> Tensor:
        cosines = F.normalize((adapter(tokens) + tokens) / 2, dim=-1) @ task.text_embeddings.T
        return (cosines / task.temperature).softmax(dim=-1)[:, 1]

    for _ in range(settings.steps):
        scores, pseudo_scores = score(task.tokens[0]), score(task.pseudo_tokens[0])
        shares = torch.stack([scores, pseudo_scores]).softmax(dim=0)[1]
        pseudo_loss = -shares.log()[task.pseudo_mask[0]].mean()
        joint = task.joint_map[0]
        similarity = (joint * scores).sum() / (joint.norm() * scores.norm())
        optimizer.zero_grad()
        (pseudo_loss + settings.beta * (1 - similarity)).backward()
        optimizer.step()
    return adapter


fits = pytest.mark.parametrize(
    "settings",
    [AdaptationSettings(), AdaptationSettings(1, 0.01, 0.0), AdaptationSettings(7, 0.005, 2.0)],
    ids=lambda settings: f"{settings.steps} steps",
)


@fits
@pytest.mark.parametrize("shared_start", [True, False], ids=["shared start", "own starts"])
def test_fit_equals_one_linear_layer_and_one_optimizer_per_image(settings, shared_start):
    task = some_task(images=4, patches=9, dim=24)
    start = initial_adapter(24, seeded(0)) if shared_start else some_adapters(4, 24)
    fitted = fit_adapters(start, task, settings)
    assert fitted.weight.shape == (4, 24, 24)
    assert fitted.bias.shape == (4, 24)
    for image in range(4):
        begin = Adapters(*(each[0:1] if shared_start else each[image : image + 1] for each in start))
        by_hand = fit_one_by_hand(begin, only(task, image), settings)
        assert_same(fitted.weight[image], by_hand.weight)
        assert_same(fitted.bias[image], by_hand.bias)


@fits
def test_batch_is_fitted_as_its_images_alone(settings):
    task = some_task(images=5, patches=9, dim=24)
    start = initial_adapter(24, seeded(0))
    together = fit_adapters(start, task, settings)
    scores = adapted_scores(task.tokens, together, task)
    for image in range(5):
        alone = fit_adapters(start, only(task, image), settings)
        assert_same(together.weight[image], alone.weight[0])
        expected = adapted_scores(only(task, image).tokens, alone, task)[0]
        assert_same(scores[image], expected, 1e-4)


def test_default_settings_are_those_of_the_paper():
    assert AdaptationSettings() == AdaptationSettings(steps=2, learning_rate=0.001, beta=0.5)


def test_images_of_a_batch_get_adapters_of_their_own():
    fitted = fit_adapters(initial_adapter(DIM, seeded(0)), some_task(), AdaptationSettings())
    assert not torch.allclose(fitted.weight[0], fitted.weight[1], atol=1e-4)


def test_no_steps_leave_the_start():
    start = initial_adapter(DIM, seeded(0))
    fitted = fit_adapters(start, some_task(), AdaptationSettings(steps=0))
    assert torch.equal(fitted.weight, start.weight.expand(IMAGES, -1, -1))
    assert torch.equal(fitted.bias, start.bias.expand(IMAGES, -1))


def test_fit_leaves_its_start_as_it_was():
    start = some_adapters()
    before = [each.clone() for each in start]
    fit_adapters(start, some_task(), AdaptationSettings(learning_rate=0.1))
    assert all(torch.equal(*pair) for pair in zip(start, before, strict=True))


def test_many_steps_lower_the_loss_and_let_the_pseudo_anomaly_stand_out():
    task = some_task(images=6, patches=9, dim=24)
    start = initial_adapter(24, seeded(0))
    losses = [adaptation_loss(fit_adapters(start, task, AdaptationSettings(n)), task, 0.5) for n in (0, 10, 100)]
    assert (losses[1] < losses[0]).all()
    assert (losses[2] < losses[1]).all()

    def margin(steps: int) -> float:
        fitted = fit_adapters(start, task, AdaptationSettings(steps))
        gain = adapted_scores(task.pseudo_tokens, fitted, task) - adapted_scores(task.tokens, fitted, task)
        return gain[task.pseudo_mask].mean().item()

    assert margin(0) < 0.1
    assert margin(100) > 0.4


def test_large_beta_pulls_the_map_towards_the_joint_map():
    task = some_task(images=6, patches=9, dim=24)
    start = initial_adapter(24, seeded(0))

    def disagreement(steps: int) -> Tensor:
        fitted = fit_adapters(start, task, AdaptationSettings(steps, beta=50.0))
        return similarity_loss(task.joint_map, adapted_scores(task.tokens, fitted, task))

    assert (disagreement(60) < 0.5 * disagreement(0)).all()


def under(mode: str):
    return {
        "plain": nullcontext,
        "inference": torch.inference_mode,
        "no_grad": torch.no_grad,
        "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    }[mode]()


@pytest.mark.parametrize("mode", ["plain", "inference", "no_grad"])
def test_fit_is_the_same_in_every_mode_and_leaves_no_graph(mode):
    settings = AdaptationSettings(3)
    expected = fit_adapters(initial_adapter(DIM, seeded(0)), some_task(), settings)
    with under(mode):
        # Made in here, so that they are inference tensors where there are such.
        task, start = some_task(), initial_adapter(DIM, seeded(0))
        assert task.tokens.is_inference() == (mode == "inference")
        fitted = fit_adapters(start, task, settings)
        assert torch.is_grad_enabled() == (mode == "plain")
        assert torch.is_inference_mode_enabled() == (mode == "inference")
        scores = adapted_scores(task.tokens, fitted, task)
    assert all(torch.equal(*pair) for pair in zip(fitted, expected, strict=True))
    for tensor in (*fitted, scores, *start, *task[:5]):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
        assert tensor.grad is None


def test_fit_under_bf16_autocast_stays_close():
    task, start, settings = some_task(), initial_adapter(DIM, seeded(0)), AdaptationSettings()
    with under("bf16"):
        fitted = fit_adapters(start, task, settings)
    expected = fit_adapters(start, task, settings)
    assert fitted.weight.dtype == fitted.bias.dtype == torch.float32
    # Two steps of 0.001 apart at most, whatever bfloat16 does to a gradient's sign.
    assert_same(fitted.weight, expected.weight, 0.0041)
    assert not fitted.weight.requires_grad


def test_no_gradient_flows_into_what_the_caller_gave():
    task, start = some_task(), initial_adapter(DIM, seeded(0))
    task = task._replace(tokens=task.tokens.requires_grad_(), text_embeddings=task.text_embeddings.requires_grad_())
    fitted = fit_adapters(start, task, AdaptationSettings())
    assert task.tokens.grad is None
    assert task.text_embeddings.grad is None
    assert not fitted.weight.requires_grad


def test_nothing_is_left_in_memory():
    task, start, settings = some_task(), initial_adapter(DIM, seeded(0)), AdaptationSettings()

    def live_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    fit_adapters(start, task, settings)
    before = live_tensors()
    for _ in range(10):
        fit_adapters(start, task, settings)
    assert live_tensors() <= before


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 100.0])
@pytest.mark.parametrize("joint", [0.0, 1.0])
def test_extreme_tasks_stay_finite(temperature, joint):
    task = some_task()._replace(temperature=temperature, joint_map=torch.full((IMAGES, PATCHES), joint))
    fitted = fit_adapters(initial_adapter(DIM, seeded(0)), task, AdaptationSettings(5))
    assert torch.isfinite(fitted.weight).all()
    assert torch.isfinite(adapted_scores(task.tokens, fitted, task)).all()


# The start


def test_start_has_the_default_distribution_of_a_linear_layer():
    dim = 64
    start = initial_adapter(dim, seeded(0))
    assert start.weight.shape == (1, dim, dim)
    assert start.bias.shape == (1, dim)
    torch.manual_seed(0)
    layer = nn.Linear(dim, dim)
    for ours, theirs in zip(start, (layer.weight, layer.bias), strict=True):
        values = ours.flatten().numpy()
        bound = 1 / math.sqrt(dim)
        assert abs(values).max() <= bound
        assert kstest(values, "uniform", args=(-bound, 2 * bound)).pvalue > 0.01
        assert ks_2samp(values, theirs.detach().flatten().numpy()).pvalue > 0.01


def test_start_repeats_with_the_seed_and_leaves_the_global_randomness_alone():
    state = torch.get_rng_state()
    first, again, other = (initial_adapter(DIM, seeded(seed)) for seed in (4, 4, 5))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.weight, other.weight)
    assert not torch.equal(first.weight[0, 0], first.bias[0])
    assert torch.equal(torch.get_rng_state(), state)
