"""WinCLIP without references (Jeong et al. 2023): anomalib's own model, on any open_clip weights."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from anomalib.models.image.winclip.torch_model import WinClipModel
from anomalib.models.image.winclip.utils import class_scores
from torch import Tensor, nn

from benchmarks.paper.peers.clip import embed, run_blocks
from benchmarks.paper.peers.scores import Scores
from dual_image_clip.method import encode_prompts, require_plain_vit

SCALES = (2, 3)
"""Sides of the windows in patches."""


class WinClip(WinClipModel):
    """anomalib's WinCLIP with the weights, grid, tokenizer and temperature of a given CLIP model.

    Windows, prompts, aggregation and scores are anomalib's. Its constructor is not run, for it downloads one fixed
    checkpoint. Its passes through the tower are replaced, for they change a setting of the CLIP model, and hand tokens
    over in the axis order of an older open_clip (2.24). A newer one (3.3) takes that for something else without a word:
    every window of every image gets the same embedding, and the maps are flat.

    Args:
        clip: An open_clip model. It is read, not changed.
        tokenizer: Its tokenizer.
        class_name: What the images show.
        temperature: τ.
        scales: Sides of the windows in patches, none larger than the grid.

    Raises:
        TypeError: The image tower is not a plain ViT.
        ValueError: A window is larger than the tower's grid of patches.
    """

    def __init__(
        self,
        clip: Any,
        tokenizer: Callable[[list[str]], Tensor],
        class_name: str,
        temperature: float,
        scales: tuple[int, ...] = SCALES,
    ) -> None:
        nn.Module.__init__(self)
        require_plain_vit(clip.visual)
        if max(scales) > min(clip.visual.grid_size):
            msg = f"windows of {max(scales)} patches do not fit the tower's grid of {tuple(clip.visual.grid_size)}"
            raise ValueError(msg)
        self.clip = clip
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.class_name = class_name
        self.reference_images = None
        self.scales = scales
        self.apply_transform = False
        self.k_shot = 0
        self.grid_size = clip.visual.grid_size
        self.register_buffer_list("masks", self._generate_masks(), persistent=False)
        self.register_buffer("_text_embeddings", torch.empty(0))
        self.setup(class_name)

    def encode_image(self, batch: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Encodes images and every window of them.

        Args:
            batch: Normalised images of the tower's own size, ``(N, 3, H, W)``.

        Returns:
            Embeddings of the images ``(N, D)``, of the windows of each scale ``(N, windows, D)``, and the patch tokens
            ``(N, P, C)``, which only scoring with references would need.

        Raises:
            ValueError: The images have another size.
        """
        visual = self.clip.visual
        tokens = embed(visual, batch)
        behind = visual.ln_post(_behind_last_block(visual, tokens))
        windows = [self._encode_windows(tokens, masks) for masks in self.window_masks]
        return (behind[:, 0] @ visual.proj).float(), windows, behind[:, 1:].float()

    @property
    def window_masks(self) -> list[Tensor]:
        """Patches of every window of each scale, ``(patches of a window, windows)``."""
        return list(cast("list[Tensor]", self.masks))

    def _encode_windows(self, tokens: Tensor, masks: Tensor) -> Tensor:
        """A pass for every window, with the class token and the window's patches only."""
        visual = self.clip.visual
        members = torch.cat([torch.zeros_like(masks[:1]), masks + 1]).T
        alone = tokens[:, members.long()]
        class_tokens = _behind_last_block(visual, alone.flatten(0, 1))[:, 0]
        return (visual.ln_post(class_tokens) @ visual.proj).float().unflatten(0, alone.shape[:2])

    def _collect_text_embeddings(self, class_name: str) -> None:  # type: ignore[override]
        means = [
            encode_prompts(self.clip, self.tokenizer(prompts)).mean(dim=0)
            for prompts in create_prompt_ensemble(class_name)
        ]
        self._text_embeddings = torch.stack(means)


class WinClipFeatures(NamedTuple):
    """Embeddings of images and of their windows, not normalised.

    Attributes:
        images: Embeddings of the images, ``(N, D)``.
        windows: Embeddings of the windows, one tensor ``(N, windows, D)`` for each scale.
    """

    images: Tensor
    windows: list[Tensor]


@torch.no_grad()
def encode(model: WinClip, images: Tensor) -> WinClipFeatures:
    """Encodes images; one tower pass and a short one for each window, 196 + 169 of them on a grid of 15×15.

    Args:
        model: The model; the class name does not matter here.
        images: Normalised images of the tower's own size, ``(N, 3, H, W)``.

    Returns:
        The embeddings, float32.

    Raises:
        ValueError: The images have another size.
    """
    embeddings, windows, _ = model.encode_image(images)
    return WinClipFeatures(embeddings, windows)


@torch.no_grad()
def score(model: WinClip, features: WinClipFeatures) -> Scores:
    """Scores images as the model's own forward does; nothing is random.

    Args:
        model: The model of the images' category.
        features: The images.

    Returns:
        anomalib's scores and maps, the latter at the tower's image size; both in 0..1.
    """
    visual = model.clip.visual
    image_scores = class_scores(features.images, model.text_embeddings, model.temperature, target_class=1)
    patch_scores = model._compute_zero_shot_scores(image_scores, features.windows)
    size = [grid * patch for grid, patch in zip(visual.grid_size, visual.patch_size, strict=True)]
    maps = F.interpolate(patch_scores.unsqueeze(1), size, mode="bilinear").squeeze(1)
    return Scores(image_scores, maps)


def _behind_last_block(visual: Any, tokens: Tensor) -> Tensor:
    return deque(run_blocks(visual, tokens), maxlen=1)[0]
