"""The adapters' two AdamW steps written out, for graphs that have no autograd (ONNX, OpenVINO)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    adapted_scores,
    only_inside,
    residual_tokens,
)

# The defaults of F.normalize, F.cosine_similarity and torch.optim.AdamW.
_NORMALIZE_EPS = 1e-12
_COSINE_EPS = 1e-8
_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8
_WEIGHT_DECAY = 0.01


class Moments(NamedTuple):
    """Running means that AdamW keeps of a parameter's gradient, each of the parameter's shape.

    Attributes:
        first: Mean of the gradient.
        second: Mean of its square.
    """

    first: Tensor
    second: Tensor


def fit_adapters_in_closed_form(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> Adapters:
    """Fits an adapter to every image as ``fit_adapters`` does, in plain tensor operations.

    Args:
        start: Where the adapters start, a batch of one (shared by all images) or of as many as there are images.
        task: The images.
        settings: Steps, learning rate and β.

    Returns:
        The fitted adapters, one for each image.
    """
    # Not `len`, which would fix the batch size of a graph.
    count = task.tokens.shape[0]
    adapters = Adapters(*(each.expand(count, *each.shape[1:]) for each in start))
    moments = [Moments(torch.zeros_like(each), torch.zeros_like(each)) for each in adapters]
    for step in range(1, settings.steps + 1):
        gradients = adaptation_gradient(adapters, task, settings.beta)
        updates = [
            adamw_step(parameter, gradient, moment, step, settings.learning_rate)
            for parameter, gradient, moment in zip(adapters, gradients, moments, strict=True)
        ]
        adapters = Adapters(*(parameter for parameter, _ in updates))
        moments = [moment for _, moment in updates]
    return adapters


def adaptation_gradient(adapters: Adapters, task: AdaptationTask, beta: float) -> Adapters:
    """Gradient of ``adaptation_loss`` with respect to each image's adapter, in closed form.

    With M the covered patches of an image, s its scores A^T, s′ those of its copy and a = A^VL:

    - Eq. 10: ∂L_pseudo/∂s′ = −(1 − σ(s′ − s)) / |M| on M and 0 elsewhere; ∂L_pseudo/∂s is its negative;
    - Eq. 11: ∂L_sim/∂s = cos(a, s) s / ‖s‖² − a / (‖a‖ ‖s‖).

    Args:
        adapters: Adapter of each image.
        task: The images.
        beta: β.

    Returns:
        Gradients of the weights ``(B, D, D)`` and the biases ``(B, D)``.
    """
    scores = adapted_scores(task.tokens, adapters, task)
    pseudo_scores = adapted_scores(task.pseudo_tokens, adapters, task)
    covered = task.pseudo_mask.to(scores.dtype)
    pseudo_slope = -torch.sigmoid(scores - pseudo_scores) * covered / covered.sum(dim=1, keepdim=True)
    score_slope = beta * only_inside(_similarity_slope(task.joint_map, only_inside(scores, task)), task) - pseudo_slope
    of_image = _score_gradient(task.tokens, scores, score_slope, adapters, task)
    of_copy = _score_gradient(task.pseudo_tokens, pseudo_scores, pseudo_slope, adapters, task)
    return Adapters(of_image.weight + of_copy.weight, of_image.bias + of_copy.bias)


def _similarity_slope(joint_map: Tensor, adapted_map: Tensor) -> Tensor:
    """∂L_sim/∂A^T (Eq. 11), ``(B, N)``."""
    # Directions, as F.normalize and F.cosine_similarity take them: zero for a map of zeros.
    joint, adapted = (F.normalize(each, dim=1, eps=_COSINE_EPS) for each in (joint_map, adapted_map))
    length = torch.linalg.vector_norm(adapted_map, dim=1, keepdim=True).clamp(min=_COSINE_EPS)
    return ((joint * adapted).sum(dim=1, keepdim=True) * adapted - joint) / length


def _score_gradient(
    tokens: Tensor, scores: Tensor, slopes: Tensor, adapters: Adapters, task: AdaptationTask
) -> Adapters:
    """Gradient of Σₙ slopesₙ scoresₙ with respect to the adapters, the slopes held fixed.

    With u = ½ (W q + b + q), d the difference of the text embeddings and s = σ(u · d / (‖u‖ τ)):
    ∂s/∂b = s (1 − s) / τ · (d − (d · u/‖u‖) u/‖u‖) / (2 ‖u‖), and ∂s/∂W = ∂s/∂b qᵀ.
    """
    residual = residual_tokens(tokens, adapters)
    length = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).clamp(min=_NORMALIZE_EPS)
    adapted = residual / length
    difference = task.text_embeddings[1] - task.text_embeddings[0]
    across = difference - (adapted @ difference).unsqueeze(-1) * adapted
    weights = (slopes * scores * (1 - scores) / (2 * task.temperature)).unsqueeze(-1)
    by_token = weights * across / length
    return Adapters(torch.bmm(by_token.transpose(1, 2), tokens), by_token.sum(dim=1))


def adamw_step(
    parameter: Tensor, gradient: Tensor, moments: Moments, step: int, learning_rate: float
) -> tuple[Tensor, Moments]:
    """One step of AdamW with PyTorch's default settings.

    Args:
        parameter: What is optimised, of any shape.
        gradient: Its gradient.
        moments: Running means after the step before; zeros before the first.
        step: Number of this step, from 1.
        learning_rate: Learning rate.

    Returns:
        Parameter and moments after the step.
    """
    first = _BETAS[0] * moments.first + (1 - _BETAS[0]) * gradient
    second = _BETAS[1] * moments.second + (1 - _BETAS[1]) * gradient.square()
    unbiased_first, unbiased_second = first / (1 - _BETAS[0] ** step), second / (1 - _BETAS[1] ** step)
    decayed = (1 - learning_rate * _WEIGHT_DECAY) * parameter
    return decayed - learning_rate * unbiased_first / (unbiased_second.sqrt() + _ADAM_EPS), Moments(first, second)
