"""Test-time adaptation (section 3.3 of the paper, Eq. 7–11): a linear adapter fitted to every image on its own."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method.scoring import text_anomaly_score

# The defaults of F.normalize, F.cosine_similarity and torch.optim.AdamW.
_NORMALIZE_EPS = 1e-12
_COSINE_EPS = 1e-8
_BETAS = (0.9, 0.999)
_ADAM_EPS = 1e-8
_WEIGHT_DECAY = 0.01


class AdaptationSettings(NamedTuple):
    """How an adapter is fitted, with the paper's values (section 4.1).

    Attributes:
        steps: AdamW steps; 0 switches adaptation off.
        learning_rate: AdamW's learning rate.
        beta: Weight of the similarity loss.
    """

    steps: int = 2
    learning_rate: float = 0.001
    beta: float = 0.5


class Adapters(NamedTuple):
    """A batch of linear adapters G(x) = W x + b, one for every image.

    Attributes:
        weight: W, ``(B, D, D)``.
        bias: b, ``(B, D)``.
    """

    weight: Tensor
    bias: Tensor


class Moments(NamedTuple):
    """Running means that AdamW keeps of a parameter's gradient, each of the parameter's shape.

    Attributes:
        first: Mean of the gradient.
        second: Mean of its square.
    """

    first: Tensor
    second: Tensor


class AdaptationTask(NamedTuple):
    """What the adapters of a batch of images are fitted to.

    Attributes:
        tokens: Patch tokens q of the images, length one, ``(B, N, D)``.
        pseudo_tokens: Patch tokens q′ of their pseudo-anomalous copies, length one, ``(B, N, D)``.
        pseudo_mask: Patches that the pseudo anomaly covers, boolean, ``(B, N)``, at least one in each image.
        joint_map: Zero-shot map A^VL of the images, ``(B, N)``.
        text_embeddings: Embeddings of [normal, anomalous], ``(2, D)``.
        temperature: τ of the text score.
    """

    tokens: Tensor
    pseudo_tokens: Tensor
    pseudo_mask: Tensor
    joint_map: Tensor
    text_embeddings: Tensor
    temperature: float


def initial_adapter(dim: int, generator: torch.Generator) -> Adapters:
    """Draws one adapter from PyTorch's default initialisation of ``nn.Linear``.

    Args:
        dim: Width D of the tokens.
        generator: Source of randomness, on the CPU.

    Returns:
        An adapter with a batch size of one.
    """
    bound = dim**-0.5
    weight = torch.empty(1, dim, dim).uniform_(-bound, bound, generator=generator)
    return Adapters(weight, torch.empty(1, dim).uniform_(-bound, bound, generator=generator))


def adapt_tokens(tokens: Tensor, adapters: Adapters) -> Tensor:
    """The adapted tokens ½ (G(q) + q) (Eq. 7 and 8), brought to length one for Eq. 9.

    Args:
        tokens: Tokens of length one, ``(B, N, D)``.
        adapters: Adapter of each image.

    Returns:
        Tokens of length one, ``(B, N, D)``.
    """
    return F.normalize(_residual_tokens(tokens, adapters), dim=-1)


def _residual_tokens(tokens: Tensor, adapters: Adapters) -> Tensor:
    """½ (G(q) + q), ``(B, N, D)``, not yet of length one."""
    mapped = torch.baddbmm(adapters.bias.unsqueeze(1), tokens, adapters.weight.transpose(1, 2))
    return (mapped + tokens) / 2


def pseudo_anomaly_loss(scores: Tensor, pseudo_scores: Tensor, pseudo_mask: Tensor) -> Tensor:
    """How poorly a pseudo anomaly stands out against the untouched image (Eq. 10).

    Args:
        scores: A^T of the images, ``(B, N)``.
        pseudo_scores: A′^T of their pseudo-anomalous copies, ``(B, N)``.
        pseudo_mask: Patches that the pseudo anomaly covers, ``(B, N)``.

    Returns:
        Mean over the covered patches of −log σ(A′^T − A^T), which is the equation's softmax written out, ``(B,)``.
    """
    covered = pseudo_mask.to(scores.dtype)
    return -(F.logsigmoid(pseudo_scores - scores) * covered).sum(dim=1) / covered.sum(dim=1)


def similarity_loss(joint_map: Tensor, adapted_map: Tensor) -> Tensor:
    """How far adaptation leads away from the zero-shot map (Eq. 11).

    The paper writes the similarity itself; minimising that would push the maps apart, against its text, so this is
    one minus it.

    Args:
        joint_map: A^VL, ``(B, N)``.
        adapted_map: A^T, ``(B, N)``.

    Returns:
        1 − cosine similarity of the two maps, ``(B,)``.
    """
    return 1 - F.cosine_similarity(joint_map, adapted_map, dim=1)


def fit_adapters(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> Adapters:
    """Fits an adapter to every image with AdamW on L_pseudo + β L_sim.

    AdamW works on each weight for itself, so one optimiser over the sum of the losses is the same as one for each
    image. Works inside ``torch.inference_mode`` and leaves no graph behind.

    Args:
        start: Where the adapters start, a batch of one (shared by all images) or of as many as there are images.
        task: The images.
        settings: Steps, learning rate and β.

    Returns:
        The fitted adapters, one for each image.
    """
    count = len(task.tokens)
    with torch.inference_mode(mode=False), torch.enable_grad():
        # Tensors made in inference mode cannot enter a graph; their clones can.
        task = AdaptationTask(
            task.tokens.detach().clone(),
            task.pseudo_tokens.detach().clone(),
            task.pseudo_mask.detach().clone(),
            task.joint_map.detach().clone(),
            task.text_embeddings.detach().clone(),
            task.temperature,
        )
        weight, bias = (each.expand(count, *each.shape[1:]).clone().requires_grad_() for each in start)
        adapters = Adapters(weight, bias)
        optimizer = torch.optim.AdamW(adapters, lr=settings.learning_rate, fused=True)
        for _ in range(settings.steps):
            optimizer.zero_grad()
            adaptation_loss(adapters, task, settings.beta).sum().backward()
            optimizer.step()
    return Adapters(*(each.detach() for each in adapters))


def adaptation_loss(adapters: Adapters, task: AdaptationTask, beta: float) -> Tensor:
    """The learning objective L_pseudo + β L_sim of each image.

    Args:
        adapters: Adapter of each image.
        task: The images.
        beta: β.

    Returns:
        Losses, ``(B,)``.
    """
    scores = adapted_scores(task.tokens, adapters, task)
    pseudo_scores = adapted_scores(task.pseudo_tokens, adapters, task)
    pseudo_loss = pseudo_anomaly_loss(scores, pseudo_scores, task.pseudo_mask)
    return pseudo_loss + beta * similarity_loss(task.joint_map, scores)


def adapted_scores(tokens: Tensor, adapters: Adapters, task: AdaptationTask) -> Tensor:
    """A^T, the text score of adapted tokens (Eq. 9).

    Args:
        tokens: Tokens of length one, ``(B, N, D)``.
        adapters: Adapter of each image.
        task: Text embeddings and temperature.

    Returns:
        Scores in 0..1, ``(B, N)``.
    """
    return text_anomaly_score(adapt_tokens(tokens, adapters), task.text_embeddings, task.temperature)


def fit_adapters_in_closed_form(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> Adapters:
    """:func:`fit_adapters` written out in plain tensor operations, for graphs that have no autograd (ONNX, OpenVINO).

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
    """Gradient of :func:`adaptation_loss` with respect to each image's adapter, in closed form.

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
    score_slope = beta * _similarity_slope(task.joint_map, scores) - pseudo_slope
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
    residual = _residual_tokens(tokens, adapters)
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
