"""The image tower: trained on what the detector computes, with the text tower locked."""

import logging
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from dual_image_clip.method import Adapters, adapt_tokens
from training.adapters import draw_adapters, fit_images, task_of_product
from training.architecture import mixed_precision, two_path_tokens
from training.batches import (
    IMAGES_PER_PRODUCT,
    Batch,
    add_pseudo_anomalies,
    cover_of_patches,
    draw_batch,
    photograph,
)
from training.distillation import distances_to
from training.drawn_set import IMAGE_SIZE, FamilyData
from training.losses import (
    PatchLabels,
    balanced,
    contrastive_loss,
    dense_loss,
    joint_maps,
    label_patches,
    ranking_loss,
)
from training.recipe import Recipe
from training.text_tower import GENERIC, words_of_families

logger = logging.getLogger(__name__)

_REPORT_EVERY = 50
_CURVES_EVERY = 5
_LARGEST_LOGIT_SCALE = 100.0
_RIGHT_GENERIC_WRONG = (0.5, 0.2, 0.3)
_ONE_REFERENCE = 0.5
_SLOWEST = 0.01  # of the peak learning rate


class Heads(nn.Module):
    """What is learned beside the tower and thrown away: how to read its scores as logits.

    Args:
        width: Width of the image tower.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.probe = nn.Linear(width, 1)
        self.visual = nn.Parameter(torch.tensor([10.0, 0.3]))
        self.joint = nn.Parameter(torch.tensor([5.0, 0.8]))
        self.image = nn.Parameter(torch.tensor([3.0, 1.2]))

    @staticmethod
    def logits(scores: Tensor, reading: Tensor) -> Tensor:
        """Scores as logits: steepness times the distance from a threshold."""
        return reading[0].clamp(1, 60) * (scores - reading[1])


class Moment(NamedTuple):
    """Where a training is.

    Attributes:
        round: Number of the round, from 0.
        step: Step in it.
        steps: Its length.
    """

    round: int
    step: int
    steps: int


class Step(NamedTuple):
    """What one step has computed.

    Attributes:
        loss: The sum of all losses.
        losses: Each of them by name.
        scores: Patch and image scores with their labels, by name, for the log.
        patch_tokens: Patch tokens of length one, ``(P · 4, N, D)``.
    """

    loss: Tensor
    losses: dict[str, float]
    scores: dict[str, tuple[Tensor, Tensor]]
    patch_tokens: Tensor


class ImageTraining:
    """A training that can be stopped at any time and goes on where its last checkpoint was.

    Args:
        clip: The model, its text tower fitted and locked.
        texts: Embeddings of some prompts of every word, ``(2, n, D)`` each.
        data: The training set.
        recipe: The recipe.
        checkpoint: Where the state is kept.
    """

    def __init__(
        self, clip: open_clip.CLIP, texts: dict[str, Tensor], data: list[FamilyData], recipe: Recipe, checkpoint: Path
    ) -> None:
        torch.manual_seed(recipe.seed + 2)
        self.clip = clip
        self.texts = texts
        self.data = data
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.heads = Heads(recipe.tower.width)
        self.optimizers = make_optimizers(clip, self.heads, recipe)
        self.step = 0
        self.words = words_of_families(recipe.data.families)

    def run(self) -> None:
        """Trains to the end."""
        self._restore()
        log, start, first = _Log(), time.monotonic(), self.step
        steps = sum(self.recipe.images.rounds)
        while self.step < steps:
            log.add(self._advance())
            if self.step % _REPORT_EVERY == 0:
                pace = (time.monotonic() - start) / (self.step - first)
                logger.info("images %d/%d, %.2f s a step: %s", self.step, steps, pace, log.summary())
            if self.step % self.recipe.images.save_every == 0 or self.step == steps:
                self._save()

    def _advance(self) -> dict[str, float]:
        """One step; depends on the state, the seed and the step's number alone."""
        moment = moment_of(self.step, self.recipe.images.rounds)
        rate = learning_rate(moment.step, moment.steps, self.recipe.images.warm_up)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
        step = self._losses(*self._draw(moment))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        step.loss.backward()
        parameters = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(_LARGEST_LOGIT_SCALE))
        self.step += 1
        values = {**step.losses, "norm": float(norm)}
        if self.step % _CURVES_EVERY == 0:
            values |= {name: float(binary_auroc(*pair)) for name, pair in step.scores.items()}
        return values

    def _draw(self, moment: Moment) -> tuple[Batch, Tensor, np.random.Generator, torch.Generator]:
        """The batch of a step, its pictures, and what the rest of the step draws from."""
        settings = self.recipe.images
        rng = np.random.default_rng([self.recipe.seed, 3, self.step])
        in_windows = moment.step < settings.window_share * moment.steps
        size = settings.window if in_windows else IMAGE_SIZE
        products = settings.window_products if in_windows else settings.full_products
        is_first = moment.round == 0
        strongest = 1 + (settings.strongest_defects - 1) * (1 - moment.step / moment.steps) if is_first else 1.0
        # Blends make the families many; the end of a round belongs to products as they are.
        blended_share = settings.blended_share if in_windows else 0.0
        batch = draw_batch(self.data, products, size, rng, strongest, blended_share)
        add_pseudo_anomalies(batch, settings.pseudo_share, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return batch, photograph(batch.images, generator), rng, generator

    def _losses(self, batch: Batch, pictures: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Step:
        weights, size = self.recipe.loss, batch.images.shape[1]
        patch = self.recipe.tower.patch_size
        window = draw_window(size // patch, IMAGE_SIZE // patch, rng)
        with mixed_precision():
            tokens = two_path_tokens(self.clip.visual, pictures, window)
            probe = self.heads.probe(tokens.ordinary_tokens).squeeze(-1)
        labels = label_patches(cover_of_patches(batch.masks, patch))
        class_token, patch_tokens = (F.normalize(each.float(), dim=-1) for each in tokens[:2])
        axis, own_texts = self._draw_texts(batch, rng)
        axis = axis.repeat_interleave(IMAGES_PER_PRODUCT, dim=0) / weights.temperature
        adapted = rng.random() < weights.adapted_share
        class_logit = (class_token * axis).sum(dim=1)
        visual = reference_distances(patch_tokens, batch.pairs, weights.most_references, rng)
        language = torch.einsum("bnd,bd->bn", patch_tokens, axis)
        if adapted:
            zero_shot = joint_maps(visual, language.sigmoid())
            adapters = self._adapters(batch, patch_tokens.detach(), labels, zero_shot.detach(), axis, generator)
            language = torch.einsum("bnd,bd->bn", adapt_tokens(patch_tokens, adapters), axis)
        joint = joint_maps(visual, language.sigmoid())
        image = class_logit.sigmoid() + visual.amax(dim=1) + language.sigmoid().amax(dim=1)
        read = self.heads.logits
        losses = {
            "language": dense_loss(language, labels, weights.ranking),
            "visual": dense_loss(read(visual, self.heads.visual), labels, weights.ranking),
            "joint": dense_loss(read(joint, self.heads.joint), labels, weights.ranking),
            "image": ranking_loss(image.view(-1, IMAGES_PER_PRODUCT), labels, self.heads.image[0].clamp(1, 20))
            + balanced(read(image, self.heads.image), labels.images, labels.images_counted),
            "class_token": balanced(class_logit, labels.images, labels.images_counted),
            "contrast": self._contrast(class_token, own_texts, batch, labels.images),
            "auxiliary": dense_loss(probe.float(), labels, weights.ranking),
        }
        counted, shown = labels.counted > 0, labels.images_counted > 0
        patch_labels, image_labels = labels.patches[counted].int(), labels.images[shown].int()
        maps = {"L": language, "V": visual, "J": joint}
        images = {"L": language.amax(dim=1), "V": visual.amax(dim=1), "C": class_logit, "J": image}
        scores = {f"pixel {name}": (each.detach()[counted], patch_labels) for name, each in maps.items()}
        scores |= {f"image {name}": (each.detach()[shown], image_labels) for name, each in images.items()}
        loss = sum((getattr(weights, name) * value for name, value in losses.items()), torch.zeros(()))
        return Step(loss, {name: float(value.detach()) for name, value in losses.items()}, scores, patch_tokens)

    def _adapters(
        self,
        batch: Batch,
        tokens: Tensor,
        labels: PatchLabels,
        joint: Tensor,
        axis: Tensor,
        generator: torch.Generator,
    ) -> Adapters:
        """Adapters of all images, fitted where a product has a pseudo anomaly."""
        weights = self.recipe.loss
        adapters = draw_adapters(len(tokens), tokens.shape[-1], generator)
        if self.step < weights.fitted_from:
            return adapters
        for product in np.flatnonzero(batch.copies):
            images = slice(product * IMAGES_PER_PRODUCT, (product + 1) * IMAGES_PER_PRODUCT)
            defective = labels.patches[images] > 0
            if defective[-1].any():
                difference = axis[images.start] * weights.temperature
                task = task_of_product(tokens[images], defective, joint[images], difference, weights.temperature)
                fit_images(adapters, images, task)
        return adapters

    def _draw_texts(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Difference of both states for each product, ``(P, D)``, and the embedding of each image, ``(P · 4, D)``."""
        axes, own = [], []
        for family in batch.families:
            name = self.words[family]
            # The right word mostly, but a user may give none, or a wrong one.
            word = str(rng.choice([name, rng.choice(GENERIC), rng.choice(list(self.texts))], p=_RIGHT_GENERIC_WRONG))
            some = self.texts[word][:, rng.integers(self.texts[word].shape[1], size=3)]
            normal, anomalous = F.normalize(some.mean(dim=1), dim=-1)
            axes.append(anomalous - normal)
            right = self.texts[name]
            own += [right[place // 2, rng.integers(right.shape[1])] for place in range(IMAGES_PER_PRODUCT)]
        return torch.stack(axes), torch.stack(own)

    def _contrast(self, class_token: Tensor, texts: Tensor, batch: Batch, defective: Tensor) -> Tensor:
        families = torch.from_numpy(batch.families).repeat_interleave(IMAGES_PER_PRODUCT)
        place = torch.arange(len(families)) % IMAGES_PER_PRODUCT // 2
        seen = (defective > 0) | (place == 0)
        classes = 2 * families + place
        return contrastive_loss(class_token[seen], texts[seen], classes[seen], self.clip.logit_scale.exp())

    def _save(self) -> None:
        state = {
            "step": self.step,
            "clip": self.clip.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def _restore(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.clip.load_state_dict(state["clip"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        logger.info("images: going on at step %d", self.step)


class _Log:
    """Means of what the steps report."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def summary(self) -> str:
        text = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in self._values.items())
        self._values.clear()
        return text


def draw_window(grid: int, tower_grid: int, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column, in patches, where a grid of patches lies in the tower's, drawn at random."""
    row, column = rng.integers(tower_grid - grid + 1, size=2)
    return int(row), int(column)


def moment_of(step: int, rounds: list[int]) -> Moment:
    """Where a training is after a number of steps.

    Args:
        step: Steps done; fewer than all rounds have together.
        rounds: Steps of each round.

    Returns:
        The moment.
    """
    ends = np.cumsum(rounds)
    number = int(np.searchsorted(ends, step, side="right"))
    return Moment(number, step - int(ends[number] - rounds[number]), rounds[number])


def learning_rate(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine."""
    return min(1.0, (step + 1) / warm_up) * (_SLOWEST + (1 - _SLOWEST) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def make_optimizers(clip: open_clip.CLIP, heads: Heads, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest."""
    settings = recipe.images
    blocks: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = [clip.logit_scale]
    for name, parameter in clip.visual.named_parameters():
        is_matrix = parameter.ndim > 1 and "embedding" not in name
        in_block = "resblocks" in name and settings.optimizer == "muon"
        (blocks if is_matrix and in_block else matrices if is_matrix else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "peak": settings.learning_rate},
        {"params": vectors, "weight_decay": 0.0, "peak": settings.learning_rate},
        {"params": list(heads.parameters()), "weight_decay": 0.0, "peak": 3 * settings.learning_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))]
    if blocks:
        group = {"params": blocks, "peak": settings.learning_rate}
        muon = torch.optim.Muon([group], lr=0.0, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers


def reference_distances(
    patch_tokens: Tensor, pairs: np.ndarray, most_references: int, rng: np.random.Generator
) -> Tensor:
    """A^V of every image against one to several other images of its product, good or defective.

    Args:
        patch_tokens: Patch tokens of length one, ``(P · 4, N, D)``.
        pairs: Which product of its category an image shows, ``(P, 4)``; the very same one is no reference.
        most_references: Largest number of references.
        rng: Draws the references.

    Returns:
        ``(P · 4, N)``.
    """
    references = torch.from_numpy(chosen_references(pairs, most_references, rng))
    return distances_to([patch_tokens], references).view(patch_tokens.shape[:2])


def chosen_references(pairs: np.ndarray, most_references: int, rng: np.random.Generator) -> np.ndarray:
    """Draws who is compared with whom: one reference at least half of the time, else up to several.

    Args:
        pairs: As in :func:`reference_distances`.
        most_references: Largest number of references.
        rng: Source of randomness.

    Returns:
        Booleans ``(P, 4, 4)``, queries by references.
    """
    others = pairs[:, :, None] != pairs[:, None, :]
    order = np.where(others, rng.random(others.shape), np.inf).argsort(axis=2).argsort(axis=2)
    several = rng.integers(1, most_references + 1, size=others.shape[:2])
    count = np.where(rng.random(others.shape[:2]) < _ONE_REFERENCE, 1, several)
    return (order < count[..., None]) & others
