"""Test-time adaptation (section 3.3 of the paper, Eq. 7–11): a linear adapter fitted to every image on its own."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dual_image_clip.method.checks import require_at_least, require_positive
from dual_image_clip.method.scoring import text_anomaly_score


@dataclass(frozen=True)
class AdaptationSettings:
    """How an adapter is fitted, with the paper's values (section 4.1).

    Attributes:
        steps: AdamW steps; 0 switches adaptation off, and its tower pass.
        learning_rate: AdamW's learning rate.
        beta: Weight of the similarity loss.

    Raises:
        ValueError: A value is negative, or the learning rate 0.
    """

    steps: int = 2
    learning_rate: float = 0.001
    beta: float = 0.5

    def __post_init__(self) -> None:
        """Checks the values."""
        require_at_least(0, adaptation_steps=self.steps, beta=self.beta)
        require_positive(learning_rate=self.learning_rate)


class Adapters(NamedTuple):
    """A batch of linear adapters G(x) = W x + b, one for every image.

    Attributes:
        weight: W, ``(B, D, D)``.
        bias: b, ``(B, D)``.
    """

    weight: Tensor
    bias: Tensor


class AdaptationTask(NamedTuple):
    """What the adapters of a batch of images are fitted to.

    Attributes:
        tokens: Patch tokens q of the images, length one, ``(B, N, D)``.
        pseudo_tokens: Patch tokens q′ of their pseudo-anomalous copies, length one, ``(B, N, D)``.
        pseudo_mask: Patches that the pseudo anomaly covers, boolean, ``(B, N)``, at least one in each image.
        joint_map: Zero-shot map A^VL of the images, ``(B, N)``; 0 outside.
        text_embeddings: Embeddings of [normal, anomalous], ``(2, D)``.
        temperature: τ of the text score.
        inside: Patches whose maps are held together by Eq. 11, boolean, ``(B, N)``; ``None`` for all.
    """

    tokens: Tensor
    pseudo_tokens: Tensor
    pseudo_mask: Tensor
    joint_map: Tensor
    text_embeddings: Tensor
    temperature: float
    inside: Tensor | None = None


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
    return F.normalize(residual_tokens(tokens, adapters), dim=-1)


def residual_tokens(tokens: Tensor, adapters: Adapters) -> Tensor:
    """The adapted tokens ½ (G(q) + q) (Eq. 7 and 8) as they are, not of length one.

    Args:
        tokens: Tokens of length one, ``(B, N, D)``.
        adapters: Adapter of each image.

    Returns:
        Tokens, ``(B, N, D)``.
    """
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
            None if task.inside is None else task.inside.detach().clone(),
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
    return pseudo_loss + beta * similarity_loss(task.joint_map, only_inside(scores, task))


def only_inside(scores: Tensor, task: AdaptationTask) -> Tensor:
    """Scores ``(B, N)`` with 0 for the patches outside, as the joint map has it."""
    return scores if task.inside is None else scores.where(task.inside, 0)


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
