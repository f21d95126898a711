"""The prompt ensemble (supplement, section 2): templates × states × domains, and the two embeddings it becomes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dual_image_clip.class_names import require_class_name
from dual_image_clip.method.attention import causal_self_attention, is_plain_attention, residual_block
from dual_image_clip.method.checks import require_positive

TEMPLATES = (
    "a {domain} cropped photo of the {state}",
    "a {domain} cropped photo of a {state}",
    "a {domain} close-up photo of a {state}",
    "a {domain} close-up photo of the {state}",
    "a bright {domain} photo of a {state}",
    "a bright {domain} photo of the {state}",
    "a dark {domain} photo of the {state}",
    "a dark {domain} photo of a {state}",
    "a jpeg corrupted {domain} photo of a {state}",
    "a jpeg corrupted {domain} photo of the {state}",
    "a blurry {domain} photo of the {state}",
    "a blurry {domain} photo of a {state}",
    "a {domain} photo of a {state}",
    "a {domain} photo of the {state}",
    "a {domain} photo of a small {state}",
    "a {domain} photo of the small {state}",
    "a {domain} photo of a large {state}",
    "a {domain} photo of the large {state}",
    "a {domain} photo of the {state} for visual inspection",
    "a {domain} photo of a {state} for visual inspection",
    "a {domain} photo of the {state} for anomaly detection",
    "a {domain} photo of a {state} for anomaly detection",
)
NORMAL_STATES = (
    "normal {name}",
    "unblemished {name}",
    "flawless {name}",
    "perfect {name}",
    "{name} without flaw",
    "{name} without damage",
    "{name} without defect",
)
ANOMALOUS_STATES = (
    "damaged {name}",
    "abnormal {name}",
    "imperfect {name}",
    "blemished {name}",
    "{name} with flaw",
    "{name} with damage",
    "{name} with defect",
)
TEXTURES = frozenset({"carpet", "grid", "leather", "tile", "wood"})
TEXTURE_DOMAINS = ("industrial", "textural", "surface")
OBJECT_DOMAINS = ("industrial", "manufacturing")

_PROMPTS_AT_ONCE = 128


@dataclass(frozen=True)
class TextSettings:
    """What images are compared with in words.

    Attributes:
        class_name: What they show; ``None`` where a datamodule says so.
        temperature: τ of Eq. 1; ``None`` for the one that the backbone learned, 0.01 for LAION's.

    Raises:
        ValueError: The class name has no letter, or the temperature is not above 0.
    """

    class_name: str | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.class_name is not None:
            require_class_name(self.class_name)
        require_positive(temperature=self.temperature)


class PromptEnsemble(NamedTuple):
    """The prompts of both states of a class.

    Attributes:
        normal: Prompts that describe a flawless instance.
        anomalous: Prompts that describe a defective one, as many.
    """

    normal: list[str]
    anomalous: list[str]


def prompt_ensemble(class_name: str) -> PromptEnsemble:
    """Writes the prompts of a class (supplement, section 2).

    Args:
        class_name: What is in the images, such as ``metal nut``. carpet, grid, leather, tile and wood are textures and
            get three domains, 462 prompts a state; everything else gets two, 308 prompts a state.

    Returns:
        The prompts.

    Raises:
        ValueError: The class name has no letter in it.
    """
    require_class_name(class_name)
    name = " ".join(class_name.split())
    domains = TEXTURE_DOMAINS if name.lower() in TEXTURES else OBJECT_DOMAINS

    def prompts(states: tuple[str, ...]) -> list[str]:
        return [
            _fill(template, domain=domain, state=state.format(name=name))
            for template in TEMPLATES
            for state in states
            for domain in domains
        ]

    return PromptEnsemble(prompts(NORMAL_STATES), prompts(ANOMALOUS_STATES))


def encode_ensemble(clip: open_clip.CLIP, tokenizer: Callable[[list[str]], Tensor], ensemble: PromptEnsemble) -> Tensor:
    """Encodes each state's prompts to one embedding: each prompt's normalised, averaged, normalised again.

    Args:
        clip: An open_clip model.
        tokenizer: Its tokenizer.
        ensemble: The prompts.

    Returns:
        Embeddings of length one of [normal, anomalous], float32, ``(2, D)``.
    """
    embeddings = [encode_prompts(clip, tokenizer(prompts)) for prompts in ensemble]
    return torch.stack([F.normalize(F.normalize(each, dim=-1).mean(dim=0), dim=-1) for each in embeddings])


@torch.no_grad()
def encode_prompts(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Encodes tokenised prompts.

    A causal text tower pooled at the end-of-text token does not see what stands behind it, so the token matrix is cut
    to its longest prompt: the same result as ``clip.encode_text`` for about a fifth of the work. Any other text tower
    gets the whole matrix.

    Args:
        clip: An open_clip model.
        tokens: Token ids, padded with zeros, ``(n, context_length)``.

    Returns:
        Embeddings, not normalised, float32, ``(n, D)``.
    """
    encode = clip.encode_text
    if _is_causal_text_tower(clip):
        # The end-of-text token has the largest id, here and below.
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
        encode = partial(_encode_causally, clip)
    return torch.cat([encode(chunk) for chunk in tokens.split(_PROMPTS_AT_ONCE)]).float()


def _encode_causally(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    hidden = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
    for block in clip.transformer.resblocks:
        hidden = residual_block(block, hidden, causal_self_attention(block.attn, block.ln_1(hidden)))
    pooled = clip.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=1)]
    projection = clip.text_projection
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def _is_causal_text_tower(clip: open_clip.CLIP) -> bool:
    return (
        isinstance(clip, open_clip.CLIP)
        and clip.attn_mask is not None
        and clip.text_projection is not None
        and getattr(clip, "text_pool_type", "argmax") == "argmax"
        and all(is_plain_attention(getattr(block, "attn", None)) for block in clip.transformer.resblocks)
    )


def _fill(template: str, **words: str) -> str:
    """Fills a template in, with "an" before a vowel."""
    with_articles = re.sub(r"\ba {(\w+)}", lambda match: f"{_article(words[match[1]])} {{{match[1]}}}", template)
    return with_articles.format(**words)


def _article(words: str) -> str:
    # A class name in u- is as often spoken like "usb cable" as like "umbrella"; our own word is not.
    return "an" if words.lower().startswith(("a", "e", "i", "o", "unblemished")) else "a"
