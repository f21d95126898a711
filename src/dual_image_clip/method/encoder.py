"""The image tower run along two paths at once (section 3.1 of the paper).

The ordinary Q-K-V path is plain CLIP and gives the class token. Beside it, a V-V path (Eq. 4) collects, block by block,
the self-attention of the ordinary path's values, and gives patch tokens that keep their place in the image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from dual_image_clip.method.attention import is_plain_attention, merge_heads, project_to_heads, residual_block


class ImageFeatures(NamedTuple):
    """What the tower says about a batch of images; float32, every token of length one.

    Attributes:
        class_token: Global description of each image, ``(B, D)``.
        patch_tokens: Local description of each patch, ``(B, h, w, D)``.
    """

    class_token: Tensor
    patch_tokens: Tensor


class DualPathEncoder(nn.Module):
    """Encodes images with the ordinary and the V-V path of a CLIP image tower in one pass.

    The tower's weights are frozen and its layers stay in evaluation mode. It is read, not changed: no hooks, no
    replaced modules.

    Args:
        visual: The image tower of a CLIP model, ``model.visual``: a plain open_clip ``VisionTransformer`` with a class
            token.

    Raises:
        TypeError: ``visual`` is not a plain open_clip ``VisionTransformer`` (ResNet, timm and SigLIP towers are not).
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = require_plain_vit(visual).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "DualPathEncoder":
        """Keeps evaluation mode whatever is asked: dropout has no place in a frozen tower."""
        del mode
        return super().train(False)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.visual.patch_size

    @torch.no_grad()
    def forward(self, images: Tensor) -> ImageFeatures:
        """Encodes a batch of images along both paths.

        Args:
            images: Normalised images ``(B, 3, H, W)``; H and W are multiples of the patch size. Sizes other than the
                tower's own get interpolated position embeddings.

        Returns:
            The class token of the ordinary path, equal to open_clip's normalised ``encode_image``, and the patch
            tokens of the V-V path.

        Raises:
            ValueError: The images have another shape.
        """
        last, ordinary, local = self._run_to_last_block(images)
        class_token, local = _last_block(last, ordinary, local)
        return ImageFeatures(self._project(class_token), self._as_grid(local, images))

    @torch.no_grad()
    def patch_tokens(self, images: Tensor) -> Tensor:
        """Encodes a batch of images along the V-V path only, at a slightly lower price.

        Args:
            images: As in :meth:`forward`.

        Returns:
            The same patch tokens as :meth:`forward`, ``(B, h, w, D)``.

        Raises:
            ValueError: The images have another shape.
        """
        last, ordinary, local = self._run_to_last_block(images)
        return self._as_grid(_local_residual(last, local, _values(last, ordinary)), images)

    def _run_to_last_block(self, images: Tensor) -> tuple[ResidualAttentionBlock, Tensor, Tensor]:
        """The last block, and the tokens of both paths before it."""
        ordinary = local = self._embed(images)
        *blocks, last = self.visual.transformer.resblocks
        for block in blocks:
            ordinary, local = _two_path_block(block, ordinary, local)
        return last, ordinary, local

    def _embed(self, images: Tensor) -> Tensor:
        rows, columns = self._grid_shape(images)
        convolution = self.visual.conv1
        patches = convolution(images.to(convolution.weight.dtype)).flatten(2).transpose(1, 2)
        class_token = self.visual.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        return self.visual.ln_pre(tokens + self.position_embedding(rows, columns).to(tokens.dtype))

    def _grid_shape(self, images: Tensor) -> tuple[int, int]:
        patch_height, patch_width = self.patch_size
        if images.ndim != 4 or images.shape[1] != 3:  # noqa: PLR2004
            msg = f"images must have shape (B, 3, H, W), got {tuple(images.shape)}"
            raise ValueError(msg)
        height, width = images.shape[-2:]
        if height < patch_height or width < patch_width:
            msg = f"images of {height}×{width} pixels are smaller than one {patch_height}×{patch_width} patch"
            raise ValueError(msg)
        if height % patch_height or width % patch_width:
            msg = f"image height and width must be multiples of {patch_height} and {patch_width}, got {height}×{width}"
            raise ValueError(msg)
        return height // patch_height, width // patch_width

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """What the tower adds to the class token and to each patch, so that it knows their place.

        Args:
            rows: Patches from top to bottom.
            columns: Patches from left to right.

        Returns:
            The tower's own, interpolated where it was trained on another grid, ``(1 + rows · columns, width)``.
        """
        embedding = self.visual.positional_embedding
        if (rows, columns) == tuple(self.visual.grid_size):
            return embedding
        grid = embedding[1:].unflatten(0, tuple(self.visual.grid_size)).permute(2, 0, 1).unsqueeze(0)
        # The filter that open_clip itself uses when it loads weights at another image size.
        grid = F.interpolate(grid.float(), (rows, columns), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([embedding[:1], grid[0].flatten(1).T.to(embedding.dtype)])

    def _as_grid(self, local: Tensor, images: Tensor) -> Tensor:
        return self._project(local[:, 1:]).unflatten(1, self._grid_shape(images))

    def _project(self, tokens: Tensor) -> Tensor:
        return F.normalize((self.visual.ln_post(tokens) @ self.visual.proj).float(), dim=-1)


def _two_path_block(block: ResidualAttentionBlock, ordinary: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """One block of both paths; they share its projections and only the ordinary path has an MLP."""
    query, key, value = project_to_heads(block.attn, block.ln_1(ordinary))
    attended = merge_heads(block.attn, F.scaled_dot_product_attention(query, key, value))
    return residual_block(block, ordinary, attended), _local_residual(block, local, value)


def _last_block(block: ResidualAttentionBlock, ordinary: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """The last block of both paths; behind it only the class token of the ordinary path is looked at."""
    query, key, value = project_to_heads(block.attn, block.ln_1(ordinary))
    attended = merge_heads(block.attn, F.scaled_dot_product_attention(query[:, :, :1], key, value))
    return residual_block(block, ordinary[:, :1], attended)[:, 0], _local_residual(block, local, value)


def _local_residual(block: ResidualAttentionBlock, local: Tensor, value: Tensor) -> Tensor:
    """Eq. 4: values attend to values."""
    return local + block.ls_1(merge_heads(block.attn, F.scaled_dot_product_attention(value, value, value)))


def _values(block: ResidualAttentionBlock, ordinary: Tensor) -> Tensor:
    """The value heads alone, ``(B, heads, N, head_dim)``, without the price of queries and keys."""
    attention = block.attn
    width = attention.embed_dim
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    projected = F.linear(block.ln_1(ordinary), attention.in_proj_weight[2 * width :], bias)
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def require_plain_vit(visual: nn.Module) -> VisionTransformer:
    """Checks that an image tower can be run along both paths.

    Args:
        visual: The image tower of a CLIP model.

    Returns:
        The same tower.

    Raises:
        TypeError: It is not a plain open_clip ``VisionTransformer``.
    """
    if not isinstance(visual, VisionTransformer):
        reason = f"it is a {type(visual).__name__}"
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        reason = "it pools its tokens instead of using a class token"
    elif visual.proj is None:
        reason = "it has no projection to the text embedding space"
    elif not all(is_plain_attention(getattr(block, "attn", None)) for block in visual.transformer.resblocks):
        reason = "its blocks do not use plain multi-head attention"
    else:
        return visual
    msg = (
        f"unsupported image tower: {reason}. Use the plain VisionTransformer of an open_clip CLIP model, "
        "such as ViT-B-16-plus-240, ViT-B-16, ViT-B-32 or ViT-L-14."
    )
    raise TypeError(msg)
