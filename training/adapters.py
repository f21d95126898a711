"""The adapters of the test-time adaptation, as the text map meets them in training."""

import torch
from torch import Tensor

from dual_image_clip.method import AdaptationSettings, AdaptationTask, Adapters, fit_adapters, initial_adapter


def draw_adapters(count: int, dim: int, generator: torch.Generator) -> Adapters:
    """Draws adapters as they are before they are fitted: one start for all images.

    Args:
        count: Number of images.
        dim: Width of the tokens.
        generator: Source of randomness.

    Returns:
        An adapter for each image.
    """
    start = initial_adapter(dim, generator)
    return Adapters(*(each.repeat(count, *(1,) * (each.dim() - 1)) for each in start))


def fit_images(adapters: Adapters, images: slice, task: AdaptationTask) -> None:
    """Fits the adapters of some images, in place.

    Args:
        adapters: An adapter for each image.
        images: Which of them.
        task: What they are fitted to.
    """
    fitted = fit_adapters(Adapters(*(each[images] for each in adapters)), task, AdaptationSettings())
    for whole, part in zip(adapters, fitted, strict=True):
        whole[images] = part


def task_of_product(
    tokens: Tensor, defective: Tensor, joint_map: Tensor, difference: Tensor, temperature: float
) -> AdaptationTask:
    """What the adapters of a product's images are fitted to, if its last image is the copy of a good one.

    Args:
        tokens: Patch tokens of its images, length one, ``(4, N, D)``.
        defective: Patches that are corrupted, boolean, ``(4, N)``, at least one in the last image.
        joint_map: Zero-shot map of its images, ``(4, N)``.
        difference: Embedding of the anomalous state minus that of the normal one, ``(D,)``.
        temperature: τ.

    Returns:
        The task; every image is told from the same copy.
    """
    copy, covered = tokens[-1:].expand_as(tokens), defective[-1:].expand_as(defective)
    # Only the difference of the two embeddings matters to a score.
    texts = torch.stack([torch.zeros_like(difference), difference])
    return AdaptationTask(tokens, copy, covered, joint_map, texts, temperature)
