"""The text tower: fitted to designed targets before any image is seen, then locked.

Its targets are one direction for every class and one axis for the state, so that "damaged" and "flawless" differ the
same way whatever the class. Words that it was never shown have all-zero token embeddings and say nothing.
"""

import logging
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dual_image_clip.class_names import class_name_from_category
from dual_image_clip.method import causal_self_attention, encode_prompts, prompt_ensemble, residual_block
from training.recipe import Recipe

logger = logging.getLogger(__name__)

GENERIC = ("object", "texture", "surface", "part", "product", "item", "material", "component")
OTHERS = (
    *("hazelnut", "metal nut", "zipper", "carpet", "grid", "transistor", "cashew", "fryum", "pipe fryum", "pcb"),
    *("macaroni", "capsules", "chewing gum", "juice bottle", "pushpin", "bag", "box", "solar cell", "solar module"),
    *("steel", "fabric", "textile", "rail", "road", "tire", "gear", "button", "marble", "blade", "engine", "phone"),
    *("door", "bread", "cookie", "potato", "food", "package", "label", "ceramic", "foam", "rope", "chain", "spring"),
    *("pipe", "weld", "battery", "lens", "bottle", "toothbrush", "screw", "candle", "granite", "mesh", "glass"),
    *("plastic", "metal", "stone", "silicon", "photo", "image"),
)
_CLASS_SHARE = 0.8
_UNKNOWN_SHARE = 0.1
_START_DEVIATION = 0.3


def words_of_families(families: Sequence[str]) -> list[str]:
    """The words for some families, in their order."""
    return [class_name_from_category(name) for name in families]


class PromptBook:
    """All the prompts of all the words, tokenised; the detector's own templates, states and domains.

    Args:
        name: The architecture in open_clip, for its tokenizer.
        families: The families in the training set.
    """

    def __init__(self, name: str, families: Sequence[str]) -> None:
        families = words_of_families(families)
        self.words = (*families, *GENERIC, *(word for word in OTHERS if word not in families))
        tokenizer = open_clip.get_tokenizer(name)
        self.tokens = {}
        for word in self.words:
            ensemble = prompt_ensemble(word)
            self.tokens[word] = (tokenizer(ensemble.normal), tokenizer(ensemble.anomalous))
        self.special = tokenizer([""])[0, :2]
        self.of_word = {word: tokenizer([word])[0] for word in self.words}

    def used_tokens(self) -> Tensor:
        """Ids of all the tokens that occur, ``(T,)``."""
        return torch.cat([each.flatten() for pair in self.tokens.values() for each in pair]).unique()


def design_targets(
    words: Sequence[str], dim: int, text_width: int, state_share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Where the embeddings of each word are to lie, ``(2, dim)`` of [normal, anomalous], length one.

    Args:
        words: The words.
        dim: Width of the embedding space.
        text_width: Width of the text tower, whose embeddings fill no more dimensions than that.
        state_share: Length of an embedding's state part; that of its class part is 0.8.
        generator: Source of randomness.

    Returns:
        The targets by word. All of them differ along the same axis, and classes are nearly orthogonal to each other.
    """
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0].T
    state, generic, *others = axes[: min(dim, text_width)]
    own = F.normalize(torch.randn(len(words), len(others), generator=generator) @ torch.stack(others), dim=1)
    targets = {}
    for word, direction in zip(words, own, strict=True):
        about = _CLASS_SHARE * (generic if word in GENERIC else F.normalize(generic + direction, dim=0))
        targets[word] = F.normalize(torch.stack([about - state_share * state, about + state_share * state]), dim=1)
    return targets


def fit_text_tower(clip: open_clip.CLIP, book: PromptBook, recipe: Recipe) -> None:
    """Fits the text tower in place, and sets the token embeddings of all other words to zero.

    Args:
        clip: The model.
        book: The prompts.
        recipe: The recipe.
    """
    settings = recipe.text
    rng = np.random.default_rng([recipe.seed, 1])
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    text_width, dim = clip.text_projection.shape
    targets = design_targets(book.words, dim, text_width, settings.state_share, generator)
    table = _CompactTable(clip, book, generator)
    parameters = [value for name, value in clip.named_parameters() if _belongs_to_text(name)]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.02, 1 - step / settings.steps)
    )
    for step in range(1, settings.steps + 1):
        prompts, wanted = _draw_prompts(book, targets, settings.batch_size, rng)
        embeddings = F.normalize(_encode(clip, prompts, table), dim=-1)
        loss = (1 - (embeddings * wanted).sum(dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        table.silence_unknown()
        if step % 250 == 0 or step == settings.steps:
            logger.info("text %d/%d: loss %.4f", step, settings.steps, loss.item())
    table.put_back()
    for parameter in parameters:
        parameter.requires_grad_(False)


@torch.no_grad()
def embed_words(clip: open_clip.CLIP, book: PromptBook, count: int, seed: int) -> dict[str, Tensor]:
    """Embeddings of some prompts of every word.

    Args:
        clip: The model, its text tower fitted.
        book: The prompts.
        count: Prompts of each word and state.
        seed: Seed of the choice.

    Returns:
        For every word ``(2, count, D)`` of [normal, anomalous], length one.
    """
    rng = np.random.default_rng([seed, 2])
    embeddings = {}
    for word, states in book.tokens.items():
        chosen = [tokens[torch.from_numpy(rng.choice(len(tokens), count))] for tokens in states]
        embeddings[word] = torch.stack([F.normalize(encode_prompts(clip, tokens), dim=-1) for tokens in chosen])
    return embeddings


class _CompactTable:
    """Stands in for the token embedding while it is fitted: only the tokens that occur, and one for all others."""

    def __init__(self, clip: open_clip.CLIP, book: PromptBook, generator: torch.Generator) -> None:
        self._clip = clip
        self._used = book.used_tokens()
        self._full: nn.Embedding = clip.token_embedding
        self.unknown = len(self._used)
        width = self._full.weight.shape[1]
        compact = nn.Embedding(len(self._used) + 1, width)
        with torch.no_grad():
            compact.weight.normal_(0, _START_DEVIATION, generator=generator)
            # At its usual start the position would not be heard beside tokens as loud as these.
            clip.positional_embedding.mul_(10)
        self._clip.token_embedding = compact
        self._number = torch.full((self._full.num_embeddings,), self.unknown)
        self._number[self._used] = torch.arange(len(self._used))
        self.silence_unknown()

    def numbers(self, tokens: Tensor) -> Tensor:
        return torch.where(tokens < 0, self.unknown, self._number[tokens.clamp(min=0)])

    @torch.no_grad()
    def silence_unknown(self) -> None:
        self._clip.token_embedding.weight[self.unknown] = 0

    @torch.no_grad()
    def put_back(self) -> None:
        self._full.weight.zero_()
        self._full.weight[self._used] = self._clip.token_embedding.weight[:-1]
        self._clip.token_embedding = self._full


def _belongs_to_text(name: str) -> bool:
    return not name.startswith("visual.") and name != "logit_scale"


def _draw_prompts(
    book: PromptBook, targets: dict[str, Tensor], count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    prompts, wanted = [], []
    for _ in range(count):
        word = book.words[rng.integers(len(book.words))]
        state = int(rng.integers(2))
        choices = book.tokens[word][state]
        tokens = choices[rng.integers(len(choices))]
        if rng.random() < _UNKNOWN_SHARE:
            # What the class name's tokens are when nobody has ever seen them: unknown, and so "object".
            own = book.of_word[word]
            own = own[(own != 0) & ~torch.isin(own, book.special)]
            tokens = torch.where(torch.isin(tokens, own), -1, tokens)
            word = GENERIC[0]
        prompts.append(tokens)
        wanted.append(targets[word][state])
    return torch.stack(prompts), torch.stack(wanted)


def _encode(clip: open_clip.CLIP, tokens: Tensor, table: _CompactTable) -> Tensor:
    ends = tokens.argmax(dim=1)
    length = int(ends.max()) + 1
    hidden = clip.token_embedding(table.numbers(tokens[:, :length])) + clip.positional_embedding[:length]
    for block in clip.transformer.resblocks:
        hidden = residual_block(block, hidden, causal_self_attention(block.attn, block.ln_1(hidden)))
    return clip.ln_final(hidden)[torch.arange(len(tokens)), ends] @ clip.text_projection
