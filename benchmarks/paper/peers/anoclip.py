"""AnoCLIP (Deng et al., "AnoVL", arXiv 2308.15939): V-V patch tokens, text alone, 22 views, test-time adaptation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.paper.peers.anoclip_adaptation import STEPS, TEMPERATURE, adapt_to_each_image
from benchmarks.paper.peers.anoclip_views import NUM_VIEWS, views
from benchmarks.paper.peers.clip import ordinary_path
from benchmarks.paper.peers.scores import Scores
from dual_image_clip.method import DualPathEncoder, encode_prompts, prompt_ensemble, text_anomaly_score, upsample_map


class _EncoderOfLengths(DualPathEncoder):
    """The two-path encoder without the last normalisation; the residual adapter sees the tokens' own length."""

    def _project(self, tokens: Tensor) -> Tensor:
        return (self.visual.ln_post(tokens) @ self.visual.proj).float()


def encode_patches(visual: Any, images: Tensor) -> Tensor:
    """Encodes images along the V-V path; one tower pass an image.

    Args:
        visual: A plain open_clip ``VisionTransformer``.
        images: Normalised images, ``(N, 3, S, S)``.

    Returns:
        Patch tokens, **not** brought to length one: normalised they are those of
        :class:`~dual_image_clip.method.encoder.DualPathEncoder`; ``(N, h, w, D)``.

    Raises:
        TypeError: The tower is not a plain ViT.
        ValueError: The images have another shape.
    """
    return _EncoderOfLengths(visual).patch_tokens(images)


def encode_views(visual: Any, images: Tensor) -> Tensor:
    """Encodes the views of images; 22 tower passes an image, as many images at once as are given.

    Args:
        visual: A plain open_clip ``VisionTransformer``.
        images: Normalised images of the tower's own size, ``(N, 3, S, S)``.

    Returns:
        Class tokens of length one, the image's own first, ``(N, 22, D)``.

    Raises:
        TypeError: The tower is not a plain ViT.
        ValueError: The images have another shape.
    """
    return torch.stack([ordinary_path(visual, view).class_token for view in views(images).unbind(dim=1)], dim=1)


def encode_class_prompts(clip: Any, tokenizer: Callable[[list[str]], Tensor], class_name: str) -> Tensor:
    """Encodes every prompt of a class for itself; the adapter works on all of them.

    Args:
        clip: An open_clip model.
        tokenizer: Its tokenizer.
        class_name: What the images show.

    Returns:
        Embeddings of length one, those of the normal prompts first, ``(T, D)``.

    Raises:
        ValueError: The class name has no letter in it.
    """
    normal, anomalous = prompt_ensemble(class_name)
    return F.normalize(encode_prompts(clip, tokenizer([*normal, *anomalous])), dim=-1)


def score(
    class_views: Tensor,
    patch_tokens: Tensor,
    text: Tensor,
    temperature: float,
    image_size: tuple[int, int],
    prompts: Tensor | None = None,
    adaptation_steps: int = STEPS,
    adaptation_temperature: float = TEMPERATURE,
    seed: int = 0,
) -> Scores:
    """Scores images with text alone.

    The published code uses no temperature (τ = 1). Here scores get the caller's, as those of every peer do, which
    leaves the order of patches as it is; the fit, which it would change, keeps τ = 1.

    Args:
        class_views: Class tokens of the views, length one, ``(N, 22, D)``.
        patch_tokens: V-V patch tokens of :func:`encode_patches`, ``(N, h, w, D)``; their length matters to the
            adaptation only.
        text: Embeddings of length one of [normal, anomalous], ``(2, D)``.
        temperature: τ of the scores.
        image_size: Height and width of the maps in pixels.
        prompts: Embeddings of length one of all prompts, ``(T, D)``; the adaptation needs them.
        adaptation_steps: Steps of the test-time adaptation; 0 for none.
        adaptation_temperature: τ of the adaptation's loss.
        seed: Seed of the adaptation.

    Returns:
        The mean text score of the views, and the text score of the patches, smoothed with a 3×3 mean and bilinearly
        interpolated; both in 0..1.

    Raises:
        ValueError: There are not 22 views, the embeddings have another shape, or the prompts are missing.
    """
    if class_views.ndim != 3 or class_views.shape[1] != NUM_VIEWS:
        msg = f"class_views must have shape (N, {NUM_VIEWS}, D), got {tuple(class_views.shape)}"
        raise ValueError(msg)
    tokens = patch_tokens.flatten(1, 2)
    if adaptation_steps:
        if prompts is None:
            msg = "the adaptation needs the embeddings of all prompts; see encode_class_prompts"
            raise ValueError(msg)
        tokens = adapt_to_each_image(tokens, prompts, text, adaptation_temperature, adaptation_steps, seed)
    patch_scores = text_anomaly_score(F.normalize(tokens, dim=-1), text, temperature)
    return Scores(
        images=text_anomaly_score(class_views, text, temperature).mean(dim=1),
        maps=upsample_map(patch_scores.view(patch_tokens.shape[:-1]), image_size),
    )
