"""The last round: what the drawn products have taught is kept, what teachers know about photographs is added."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.architecture import mixed_precision, two_path_tokens
from training.batches import IMAGES_PER_PRODUCT, Batch, cover_of_patches, photograph
from training.distillation import FeatureHeads, distance_loss, distances_to, relation_loss
from training.drawn_set import IMAGE_SIZE, FamilyData
from training.image_tower import ImageTraining, Step, chosen_references, draw_window
from training.losses import balanced, dense_loss, label_patches
from training.photographs import draw_pieces, load_photographs
from training.recipe import Recipe
from training.teachers import Teachers
from training.text_tower import GENERIC


class PhotographTraining(ImageTraining):
    """A round in which most of every batch are pieces of photographs.

    Args:
        clip: The model, trained on drawn products.
        texts: As in :class:`ImageTraining`.
        data: The drawn training set.
        recipe: The recipe; its ``photographs`` say what is different here.
        checkpoint: Where the state is kept.
    """

    def __init__(
        self, clip: open_clip.CLIP, texts: dict[str, Tensor], data: list[FamilyData], recipe: Recipe, checkpoint: Path
    ) -> None:
        settings = recipe.photographs
        images = replace(
            recipe.images,
            # Not the first round, in which defects are strengthened.
            rounds=[0, settings.steps],
            learning_rate=settings.learning_rate,
            warm_up=settings.warm_up,
            window_products=settings.window_products,
            full_products=settings.full_products,
        )
        super().__init__(clip, texts, data, replace(recipe, images=images, loss=settings.loss), checkpoint)
        self.settings = settings
        self.before = {name: weight.clone() for name, weight in clip.visual.state_dict().items()}
        self.photographs = load_photographs()
        self.teachers = Teachers(settings.teachers)
        widths = {"local": recipe.tower.embed_dim, "ordinary": recipe.tower.width}
        features = nn.ModuleDict({name: FeatureHeads(width, self.teachers.widths) for name, width in widths.items()})
        self.heads.add_module("features", features)
        heads = {"params": list(features.parameters()), "lr": 0.0, "weight_decay": 0.0}
        self.optimizers[0].add_param_group({**heads, "peak": 3 * settings.learning_rate})

    def run(self) -> None:
        """Trains to the end, and takes the mean of the weights before and after."""
        super().run()
        share = self.settings.kept_share
        after = self.clip.visual.state_dict()
        self.clip.visual.load_state_dict({name: after[name].lerp(self.before[name], share) for name in after})

    def _losses(self, batch: Batch, pictures: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Step:
        step = super()._losses(batch, pictures, rng, generator)
        size, settings = batch.images.shape[1], self.settings
        products = settings.window_pieces if size == self.recipe.images.window else settings.full_pieces
        pieces = draw_pieces(self.photographs, self.data, products, size, rng)
        losses = self._photograph_losses(pieces, photograph(pieces.images, generator), rng, generator)
        losses["drawn_relations"] = relation_loss(step.patch_tokens, self.teachers(pictures), generator)
        added = sum((getattr(settings, name) * value for name, value in losses.items()), torch.zeros(()))
        values = {name: float(value.detach()) for name, value in losses.items()}
        return step._replace(loss=step.loss + added, losses={**step.losses, **values})

    def _photograph_losses(
        self, pieces: Batch, pictures: Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> dict[str, Tensor]:
        patch = self.recipe.tower.patch_size
        seen = self.teachers(pictures)
        window = draw_window(pictures.shape[-1] // patch, IMAGE_SIZE // patch, rng)
        with mixed_precision():
            tokens = two_path_tokens(self.clip.visual, pictures, window)
        class_token, local = (F.normalize(each.float(), dim=-1) for each in tokens[:2])
        labels = label_patches(cover_of_patches(pieces.masks, patch))
        axis = self._generic_axes(len(pieces.families), rng).repeat_interleave(IMAGES_PER_PRODUCT, dim=0)
        language = dense_loss(torch.einsum("bnd,bd->bn", local, axis), labels, self.recipe.loss.ranking)
        of_images = balanced((class_token * axis).sum(dim=1), labels.images, labels.images_counted)
        heads: Any = self.heads.features
        return {
            "features": heads["local"].loss(local, seen) + heads["ordinary"].loss(tokens.ordinary_tokens.float(), seen),
            "relations": relation_loss(local, seen, generator),
            "distances": self._distance_loss(local, seen, pieces.pairs, rng),
            "text": language + 0.5 * of_images,
        }

    def _distance_loss(
        self, mine: Tensor, teachers: list[Tensor], pairs: np.ndarray, rng: np.random.Generator
    ) -> Tensor:
        references = torch.from_numpy(chosen_references(pairs, self.recipe.loss.most_references, rng))
        return distance_loss(distances_to([mine], references), distances_to(teachers, references))

    def _generic_axes(self, count: int, rng: np.random.Generator) -> Tensor:
        """Difference of both states over τ, of a generic word for each product, ``(P, D)``."""
        words = [self.texts[str(word)] for word in rng.choice(GENERIC, size=count)]
        states = torch.stack([F.normalize(word.mean(dim=1), dim=-1) for word in words])
        return (states[:, 1] - states[:, 0]) / self.recipe.loss.temperature
