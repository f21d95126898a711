"""The fit without autograd, against autograd and PyTorch's optimiser."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from dual_image_clip.export.closed_form import Moments, adamw_step, adaptation_gradient, fit_adapters_in_closed_form
from dual_image_clip.method import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    adapted_scores,
    fit_adapters,
    initial_adapter,
)
from dual_image_clip.method.adaptation import adaptation_loss
from tests.helpers import assert_same, seeded, uniform
from tests.method.adaptation_tasks import DIM, IMAGES, PATCHES, some_task


def in_double(task: AdaptationTask) -> AdaptationTask:
    return AdaptationTask(*(each.double() if torch.is_tensor(each) else each for each in task))._replace(
        pseudo_mask=task.pseudo_mask
    )


def double_adapters(images: int, dim: int, seed: int) -> Adapters:
    weight, bias = uniform(images, dim, dim, seed=seed), uniform(images, dim, seed=seed + 1)
    return Adapters((2 * weight - 1).double() / math.sqrt(dim), (2 * bias - 1).double())


shapes = {
    "images": st.integers(1, 4),
    "patches": st.integers(1, 12),
    "dim": st.integers(2, 16),
    "seed": st.integers(0, 10_000),
    "beta": st.floats(0.0, 5.0),
}
few_examples = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)


# At lower temperatures, scores may lie below the 1e-8 from which on PyTorch's cosine similarity is none.
@few_examples
@hypothesis.given(**shapes, temperature=st.floats(0.12, 5.0))
def test_closed_form_gradient_is_that_of_autograd(images, patches, dim, seed, temperature, beta):
    task = in_double(some_task(images, patches, dim, seed)._replace(temperature=temperature))
    adapters = Adapters(*(each.requires_grad_() for each in double_adapters(images, dim, seed)))
    expected = torch.autograd.grad(adaptation_loss(adapters, task, beta).sum(), adapters)
    with torch.no_grad():
        gradient = adaptation_gradient(adapters, task, beta)
    for ours, theirs in zip(gradient, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


# AdamW divides by the size of a gradient: at lower temperatures some are so small that their last digits count.
@few_examples
@hypothesis.given(
    **shapes,
    temperature=st.floats(0.3, 5.0),
    steps=st.integers(0, 3),
    learning_rate=st.floats(1e-4, 0.01),
    shared_start=st.booleans(),
)
def test_closed_form_fit_is_that_of_autograd_and_adamw(
    images, patches, dim, seed, temperature, beta, steps, learning_rate, shared_start
):
    task = in_double(some_task(images, patches, dim, seed)._replace(temperature=temperature))
    start = double_adapters(1 if shared_start else images, dim, seed)
    settings = AdaptationSettings(steps, learning_rate, beta)
    fitted = fit_adapters_in_closed_form(start, task, settings)
    for ours, theirs in zip(fitted, fit_adapters(start, task, settings), strict=True):
        assert_same(ours, theirs, 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adamw_step_is_that_of_torch(steps):
    parameter = uniform(5, 4).double().requires_grad_()
    optimizer = torch.optim.AdamW([parameter], lr=0.03)
    ours, moments = parameter.detach().clone(), Moments(*torch.zeros(2, 5, 4, dtype=torch.double))
    for step in range(1, steps + 1):
        gradient = uniform(5, 4, seed=step).double() - 0.5
        parameter.grad = gradient
        optimizer.step()
        ours, moments = adamw_step(ours, gradient, moments, step, learning_rate=0.03)
    assert_same(ours, parameter.detach(), 1e-12)


@pytest.mark.parametrize("temperature", [1e-4, 0.01, 100.0])
@pytest.mark.parametrize("joint", [0.0, 1.0])
def test_closed_form_fit_of_extreme_tasks_is_finite_and_that_of_autograd(temperature, joint):
    task = some_task()._replace(temperature=temperature, joint_map=torch.full((IMAGES, PATCHES), joint))
    start, settings = initial_adapter(DIM, seeded(0)), AdaptationSettings(5)
    fitted = fit_adapters_in_closed_form(start, task, settings)
    expected = adapted_scores(task.tokens, fit_adapters(start, task, settings), task)
    assert_same(adapted_scores(task.tokens, fitted, task), expected, 1e-3)
