"""Plain CLIP: the ordinary Q-K-V path of the tower, scored with text alone (Table 1, row "CLIP")."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmarks.paper.peers.scores import Scores
from dual_image_clip.method import (
    merge_heads,
    project_to_heads,
    require_plain_vit,
    residual_block,
    text_anomaly_score,
    upsample_map,
)


class OrdinaryTokens(NamedTuple):
    """Tokens of the ordinary path of an open_clip image tower.

    Attributes:
        class_token: Class token in the space of the text, length one, ``(N, D)``.
        patch_tokens: Patch tokens of the last block in the space of the text, length one, ``(N, h, w, D)``.
        layer_tokens: Patch tokens as they leave each block that was asked for, neither normalised nor projected,
            ``(N, L, h, w, C)``.
    """

    class_token: Tensor
    patch_tokens: Tensor
    layer_tokens: Tensor


@torch.no_grad()
def ordinary_path(visual: Any, images: Tensor, layers: Sequence[int] = ()) -> OrdinaryTokens:
    """Runs images through the tower as CLIP does.

    Args:
        visual: A plain open_clip ``VisionTransformer``, ``model.visual``.
        images: Normalised images of the tower's own size, ``(N, 3, H, W)``.
        layers: Numbers of the blocks, counted from one and increasing, whose tokens are wanted as well.

    Returns:
        The tokens, float32.

    Raises:
        TypeError: The tower is not a plain ViT.
        ValueError: The images have another shape, or there is no such block.
    """
    require_plain_vit(visual)
    depth = len(visual.transformer.resblocks)
    if list(layers) != sorted(set(layers)) or not all(1 <= layer <= depth for layer in layers):
        msg = f"layers must be different, increasing numbers in 1..{depth}, got {list(layers)}"
        raise ValueError(msg)
    tokens = embed(visual, images)
    layer_tokens = tokens.new_empty(len(tokens), len(layers), *tokens[0, 1:].shape, dtype=torch.float32)
    for number, behind in enumerate(run_blocks(visual, tokens), start=1):
        if number in layers:
            layer_tokens[:, layers.index(number)] = behind[:, 1:]
    projected = F.normalize((visual.ln_post(behind) @ visual.proj).float(), dim=-1)
    return OrdinaryTokens(
        class_token=projected[:, 0],
        patch_tokens=projected[:, 1:].unflatten(1, visual.grid_size),
        layer_tokens=layer_tokens.unflatten(2, visual.grid_size),
    )


def embed(visual: Any, images: Tensor) -> Tensor:
    """Turns images into the tokens that stand before ``ln_pre``.

    Args:
        visual: A plain open_clip ``VisionTransformer``.
        images: Normalised images of the tower's own size, ``(N, 3, H, W)``.

    Returns:
        The class token and the patch tokens with their position embeddings, ``(N, 1 + h w, C)``.

    Raises:
        ValueError: The images have another shape.
    """
    size = tuple(grid * patch for grid, patch in zip(visual.grid_size, visual.patch_size, strict=True))
    if images.ndim != 4 or images.shape[1:] != (3, *size):
        msg = f"images must have the tower's own shape (N, 3, {size[0]}, {size[1]}), got {tuple(images.shape)}"
        raise ValueError(msg)
    patches = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
    return torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)


def run_blocks(visual: Any, tokens: Tensor) -> Iterator[Tensor]:
    """Runs ``ln_pre`` and every block on any set of tokens.

    The attention is computed from the weights, because the order of axes that open_clip's own blocks expect differs
    between its releases.

    Args:
        visual: A plain open_clip ``VisionTransformer``.
        tokens: Tokens before ``ln_pre``, ``(N, M, C)``; not all patches need to be there.

    Yields:
        Tokens behind each block, ``(N, M, C)``.
    """
    tokens = visual.ln_pre(tokens)
    for block in visual.transformer.resblocks:
        query, key, value = project_to_heads(block.attn, block.ln_1(tokens))
        attended = merge_heads(block.attn, F.scaled_dot_product_attention(query, key, value))
        tokens = residual_block(block, tokens, attended)
        yield tokens


def score(
    class_token: Tensor, patch_tokens: Tensor, text: Tensor, temperature: float, image_size: tuple[int, int]
) -> Scores:
    """Scores images with text alone (Eq. 1–3 of the paper on ordinary tokens).

    Args:
        class_token: Class tokens of length one, ``(N, D)``.
        patch_tokens: Patch tokens of length one, ``(N, h, w, D)``.
        text: Embeddings of length one of [normal, anomalous], ``(2, D)``.
        temperature: τ.
        image_size: Height and width of the maps in pixels.

    Returns:
        The class token's text score, and that of the patches, bilinearly interpolated; both in 0..1.

    Raises:
        ValueError: The embeddings are not two vectors of the tokens' width.
    """
    patch_scores = text_anomaly_score(patch_tokens, text, temperature)
    return Scores(
        images=text_anomaly_score(class_token, text, temperature),
        maps=upsample_map(patch_scores, image_size, smooth=False),
    )
