"""The dual encoder: its architecture, its start, and a forward pass along both paths that can be differentiated."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from dual_image_clip.method import merge_heads, project_to_heads, residual_block
from training.drawn_set import IMAGE_SIZE
from training.recipe import Recipe, TowerRecipe

CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49408
_LUMA_SHARE = 0.8
_POSITION_SCALE = 0.6


class TwoPathTokens(NamedTuple):
    """What both paths make of a batch of images; nothing is normalised.

    Attributes:
        class_token: Class token of the ordinary path, ``(B, D)``.
        patch_tokens: Patch tokens of the V-V path, ``(B, N, D)``.
        ordinary_tokens: Patch tokens of the ordinary path before the projection, ``(B, N, C)``.
    """

    class_token: Tensor
    patch_tokens: Tensor
    ordinary_tokens: Tensor


def architecture(recipe: TowerRecipe) -> dict[str, Any]:
    """The configuration that open_clip builds the model from."""
    return {
        "embed_dim": recipe.embed_dim,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": recipe.layers,
            "width": recipe.width,
            "head_width": recipe.head_width,
            "patch_size": recipe.patch_size,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY_SIZE,
            "width": recipe.text_width,
            "heads": recipe.text_width // 32,
            "layers": recipe.text_layers,
        },
    }


def build(recipe: Recipe, folder: Path) -> open_clip.CLIP:
    """Makes the open_clip model, with a start that suits a short training.

    Args:
        recipe: The recipe.
        folder: Where the architecture's configuration is written, as open_clip wants it.

    Returns:
        The model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{recipe.name}.json").write_text(json.dumps(architecture(recipe.tower), indent=2) + "\n")
    open_clip.add_model_config(folder)
    torch.manual_seed(recipe.seed)
    clip = open_clip.create_model(recipe.name)
    start_image_tower(clip.visual, torch.Generator().manual_seed(recipe.seed))
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(1 / recipe.loss.temperature))
    return clip


@torch.no_grad()
def start_image_tower(visual: VisionTransformer, generator: torch.Generator) -> None:
    """Starts the image tower where it can already tell patches apart.

    The patch embedding starts as a cosine transform, the position embedding as sines, and attention as "mimetic"
    (Trockman and Kolter, 2023): queries like keys, output projections like minus values.

    Args:
        visual: The image tower.
        generator: Source of randomness.
    """
    width, _, patch, _ = visual.conv1.weight.shape
    visual.conv1.weight.copy_(torch.from_numpy(cosine_filters(width, patch)))
    visual.positional_embedding.copy_(_POSITION_SCALE * sine_positions(visual.grid_size[0], width))
    for block in visual.transformer.resblocks:
        _start_attention(block.attn, generator)


def cosine_filters(count: int, patch: int) -> NDArray[np.float32]:
    """The lowest frequencies of the 2-D cosine transform: most of them of brightness, the rest of two colour axes.

    Args:
        count: Number of filters.
        patch: Their side.

    Returns:
        Filters ``(count, 3, patch, patch)``; higher frequencies are weighted up, because pictures have less of them.
    """
    steps = np.arange(patch)
    waves = np.cos(np.pi * (steps + 0.5) * steps[:, None] / patch) * math.sqrt(2 / patch)
    waves[0] /= math.sqrt(2)
    frequencies = sorted(np.ndindex(patch, patch), key=lambda pair: pair[0] ** 2 + pair[1] ** 2)
    brightness = min(round(_LUMA_SHARE * count), len(frequencies))
    first = (count - brightness) // 2
    axes = (
        (np.ones(3) / math.sqrt(3), brightness),
        (np.array([1, 0, -1]) / math.sqrt(2), first),
        (np.array([1, -2, 1]) / math.sqrt(6), count - brightness - first),
    )
    filters = [
        colour[:, None, None] * np.outer(waves[row], waves[column]) * 1.4 / patch * (1 + row + column) ** 0.7
        for colour, number in axes
        for row, column in frequencies[:number]
    ]
    return np.stack(filters).astype(np.float32)


def sine_positions(side: int, width: int) -> Tensor:
    """Position embedding of a square grid: sines and cosines of row and column; zero for the class token.

    Args:
        side: Side of the grid in patches.
        width: Width of the tower.

    Returns:
        ``(1 + side², width)``.
    """
    quarter = width // 4
    rates = 0.01 ** (torch.arange(quarter) / quarter)
    angles = torch.arange(side).unsqueeze(1) * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = waves.expand(side, -1, -1)
    grid = torch.cat([columns, columns.transpose(0, 1)], dim=2).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), grid])


def two_path_tokens(visual: VisionTransformer, images: Tensor, window: tuple[int, int] = (0, 0)) -> TwoPathTokens:
    """Runs the image tower along both paths as the detector's ``DualPathEncoder`` does, for training.

    Args:
        visual: The image tower.
        images: Normalised images ``(B, 3, H, W)``, at most as large as the tower's.
        window: Row and column, in patches, of the place in the position embedding where the images lie.

    Returns:
        The tokens.
    """
    patches = _embed_patches(visual.conv1, images)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
    positions = _positions(visual, window, (images.shape[-2], images.shape[-1]))
    ordinary = local = visual.ln_pre(torch.cat([class_token, patches], dim=1) + positions)
    for block in visual.transformer.resblocks:
        query, key, value = project_to_heads(block.attn, block.ln_1(ordinary))
        local = local + merge_heads(block.attn, _attend(value, value, value))
        ordinary = residual_block(block, ordinary, merge_heads(block.attn, _attend(query, key, value)))
    ordinary, local = visual.ln_post(ordinary), visual.ln_post(local[:, 1:])
    return TwoPathTokens(ordinary[:, 0] @ visual.proj, local @ visual.proj, ordinary[:, 1:])


def mixed_precision() -> torch.autocast:
    """bfloat16 where the processor can compute in it; where it cannot, that would take thirty times as long."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.cpu.get_cpu_capability().startswith("AVX512"))


def _embed_patches(embedding: nn.Conv2d, images: Tensor) -> Tensor:
    # The same as the convolution, whose backward pass takes several times as long in bfloat16 on a CPU.
    height, width = embedding.kernel_size
    patches = images.unfold(2, height, height).unfold(3, width, width)
    return F.linear(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2), embedding.weight.flatten(1))


def _positions(visual: VisionTransformer, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    row, column = window
    height, width = (side // patch for side, patch in zip(size, visual.patch_size, strict=True))
    embedding = visual.positional_embedding
    grid = embedding[1:].unflatten(0, tuple(visual.grid_size))[row : row + height, column : column + width]
    return torch.cat([embedding[:1], grid.flatten(0, 1)])


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # Written out: with its backward pass, half as fast again in bfloat16 on a CPU as torch's fused kernel.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return F.softmax(scores, dim=-1, dtype=scores.dtype) @ value


def _start_attention(attention: nn.MultiheadAttention, generator: torch.Generator) -> None:
    width, heads = attention.embed_dim, attention.num_heads
    head_width = width // heads

    def noisy_identity(noise: float, identity: float) -> tuple[Tensor, Tensor, Tensor]:
        matrix = noise * torch.randn(width, width, generator=generator) / math.sqrt(width)
        left, scale, right = torch.linalg.svd(matrix + identity * torch.eye(width))
        return left, scale.sqrt(), right

    for head in range(heads):
        rows = slice(head * head_width, (head + 1) * head_width)
        left, scale, right = noisy_identity(0.7, 0.7)
        attention.in_proj_weight[:width][rows] = (left[:, :head_width] * scale[:head_width]).T
        attention.in_proj_weight[width : 2 * width][rows] = scale[:head_width, None] * right[:head_width]
    left, scale, right = noisy_identity(0.4, -0.4)
    attention.in_proj_weight[2 * width :] = scale[:, None] * right
    attention.out_proj.weight.copy_(left * scale)
