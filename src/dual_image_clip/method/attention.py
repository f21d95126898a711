"""Attention of open_clip's transformer blocks, from their weights.

``nn.MultiheadAttention`` does not hand out its value projection, and its call convention differs between open_clip
releases; both are needed here, so the projections are applied directly.
"""

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


class HeadProjections(NamedTuple):
    """Queries, keys and values of one attention layer, each ``(B, heads, N, head_dim)``."""

    query: Tensor
    key: Tensor
    value: Tensor


def project_to_heads(attention: nn.MultiheadAttention, tokens: Tensor) -> HeadProjections:
    """Projects tokens to the queries, keys and values of each head.

    Args:
        attention: The layer whose weights are used.
        tokens: Normalised tokens, ``(B, N, C)``.

    Returns:
        The three projections, each ``(B, heads, N, C / heads)``.
    """
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    batch, count, _ = tokens.shape
    heads = projected.view(batch, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return HeadProjections(*heads.unbind(0))


def merge_heads(attention: nn.MultiheadAttention, heads: Tensor) -> Tensor:
    """Joins the heads and applies the layer's output projection.

    Args:
        attention: The layer whose weights are used.
        heads: Output of the attention of each head, ``(B, heads, N, head_dim)``.

    Returns:
        Tokens, ``(B, N, C)``.
    """
    batch, _, count, _ = heads.shape
    return attention.out_proj(heads.transpose(1, 2).reshape(batch, count, -1))


def residual_block(block: ResidualAttentionBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """Finishes a pre-norm residual block: attention residual, then the MLP residual.

    Args:
        block: An open_clip ``ResidualAttentionBlock``.
        tokens: Tokens that entered the block, ``(B, N, C)``.
        attended: Output of the block's attention for them, ``(B, N, C)``.

    Returns:
        Tokens behind the block, ``(B, N, C)``.
    """
    tokens = tokens + block.ls_1(attended)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def causal_self_attention(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Self-attention in which a token sees itself and those before it.

    Args:
        attention: The layer whose weights are used.
        tokens: Normalised tokens, ``(B, N, C)``.

    Returns:
        Tokens, ``(B, N, C)``.
    """
    query, key, value = project_to_heads(attention, tokens)
    return merge_heads(attention, F.scaled_dot_product_attention(query, key, value, is_causal=True))


def is_plain_attention(module: nn.Module | None) -> bool:
    """Whether a module is the packed ``nn.MultiheadAttention`` that the functions above can read."""
    return (
        isinstance(module, nn.MultiheadAttention)
        # Missing where queries, keys and values have weights of their own.
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )
