"""AnoCLIP's test-time adaptation: a residual adapter over the prompts, fitted to each image and its noisy tokens.

Taken from what the published code does (hq-deng/AnoVL, ``TextAdapter`` of ``model.py`` and ``loss_func`` of
``vl_test.py``). Where it lets AdamW's moments run on from image to image of a category although the weights start
anew, every image gets an optimiser of its own here, so that a score does not depend on the order of the images.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

STEPS = 5
TEMPERATURE = 1.0
"""τ of the loss: the published code uses none. With one as low as CLIP's own, the entropy alone steers the fit."""
LEARNING_RATE = 0.001
NOISE = 0.05 * 1.1
"""Standard deviation of the noise, against tokens whose length is that of ``ln_post`` and projection."""
NOISY_SHARE = 0.5

_IMAGES_AT_ONCE = 16


class ResidualAdapters(NamedTuple):
    """Adapters x ↦ ½ x + ½ Eᵀ tanh(W x / ‖x‖ + b) over the embeddings E of T prompts, one for every image.

    Attributes:
        weight: W, ``(N, T, D)``.
        bias: b, ``(N, T)``.
    """

    weight: Tensor
    bias: Tensor


def initial_adapter(num_prompts: int, dim: int, generator: torch.Generator) -> ResidualAdapters:
    """Draws one adapter from PyTorch's default initialisation of ``nn.Linear``.

    Args:
        num_prompts: Number T of prompts.
        dim: Width D of the tokens.
        generator: Source of randomness, on the CPU.

    Returns:
        An adapter with a batch size of one.
    """
    bound = dim**-0.5
    weight = torch.empty(1, num_prompts, dim).uniform_(-bound, bound, generator=generator)
    return ResidualAdapters(weight, torch.empty(1, num_prompts).uniform_(-bound, bound, generator=generator))


def adapt(tokens: Tensor, adapters: ResidualAdapters, prompts: Tensor) -> Tensor:
    """Adapts tokens and brings them to length one.

    Args:
        tokens: Patch tokens, not normalised, ``(N, P, D)``.
        adapters: Adapter of each image.
        prompts: E, embeddings of length one of all prompts, ``(T, D)``.

    Returns:
        Tokens of length one, ``(N, P, D)``.
    """
    directions = F.normalize(tokens, dim=-1)
    affinity = torch.tanh(
        torch.baddbmm(adapters.bias.unsqueeze(1), directions, adapters.weight.transpose(1, 2)),
    )
    return F.normalize((tokens + affinity @ prompts) / 2, dim=-1)


def loss(tokens: Tensor, noisy_tokens: Tensor, text: Tensor, temperature: float) -> Tensor:
    """What the adapter of each image is fitted to.

    The tokens are their own pseudo-label: the entropy of their text probabilities. Noise is taken for an anomaly: the
    cross-entropy of noisy tokens to the anomalous text, and of untouched ones to the normal text.

    Args:
        tokens: Adapted tokens of length one, ``(N, P, D)``.
        noisy_tokens: Adapted noisy tokens of length one, ``(N, P, D)``.
        text: Embeddings of length one of [normal, anomalous], ``(2, D)``.
        temperature: τ.

    Returns:
        Mean over patches of the entropy plus one half of both cross-entropies, ``(N,)``.
    """
    log_shares, noisy_log_shares = (
        (each @ text.T / temperature).log_softmax(dim=-1) for each in (tokens, noisy_tokens)
    )
    entropy = -(log_shares.exp() * log_shares).sum(dim=-1)
    cross_entropy = -noisy_log_shares[..., 1] - log_shares[..., 0]
    return (entropy + NOISY_SHARE * cross_entropy).mean(dim=-1)


def adapt_to_each_image(
    tokens: Tensor,
    prompts: Tensor,
    text: Tensor,
    temperature: float = TEMPERATURE,
    steps: int = STEPS,
    seed: int = 0,
) -> Tensor:
    """Fits an adapter to every image and adapts its tokens with it.

    Every image starts from the same adapter and meets the same noise, new at each step, so that its result depends on
    the image and the seed alone. AdamW works on each weight for itself: one optimiser over the sum of the losses is
    the same as one for each image. Works inside ``torch.inference_mode`` and leaves no graph behind.

    Args:
        tokens: Patch tokens, not normalised, ``(N, P, D)``.
        prompts: Embeddings of length one of all prompts, ``(T, D)``.
        text: Embeddings of length one of [normal, anomalous], ``(2, D)``.
        temperature: τ of the loss.
        steps: AdamW steps.
        seed: Seed of the adapter's start and of the noise.

    Returns:
        Adapted tokens of length one, ``(N, P, D)``.
    """
    _, num_patches, dim = tokens.shape
    with torch.inference_mode(mode=False), torch.enable_grad():
        # Tensors made in inference mode cannot enter a graph; their clones can.
        tokens, prompts, text = (each.detach().clone() for each in (tokens, prompts, text))
        generator = torch.Generator().manual_seed(seed)
        start = initial_adapter(len(prompts), dim, generator)
        noise = NOISE * torch.randn(steps, num_patches, dim, generator=generator)
        adapted = []
        for chunk in tokens.split(_IMAGES_AT_ONCE):
            adapters = ResidualAdapters(
                *(each.expand(len(chunk), *each.shape[1:]).clone().requires_grad_() for each in start)
            )
            optimizer = torch.optim.AdamW(adapters, lr=LEARNING_RATE, fused=True)
            for step in range(steps):
                optimizer.zero_grad()
                clean, noisy = adapt(torch.cat([chunk, chunk + noise[step]], dim=1), adapters, prompts).chunk(2, dim=1)
                loss(clean, noisy, text, temperature).sum().backward()
                optimizer.step()
            with torch.no_grad():
                adapted.append(adapt(chunk, adapters, prompts))
        return torch.cat(adapted)
