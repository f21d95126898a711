"""Fig. 2 of the paper as one module: images in, anomaly map and score out."""

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from anomalib.data import InferenceBatch
from kornia.enhance import denormalize, normalize
from torch import Tensor, nn

from dual_image_clip.adaptation import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    adapted_scores,
    fit_adapters,
    initial_adapter,
)
from dual_image_clip.encoder import DualPathEncoder, ImageFeatures
from dual_image_clip.pseudo_anomaly import PseudoAnomalyGenerator, covered_patches, patch_share
from dual_image_clip.references import ReferencePool
from dual_image_clip.scoring import (
    ScoreWeights,
    fuse_maps,
    fuse_scores,
    joint_anomaly_map,
    text_anomaly_score,
    upsample_map,
    visual_anomaly_map,
)
from dual_image_clip.tiling import TileLayout, merge_tiles, split_into_tiles, tile_layout

logger = logging.getLogger(__name__)

LookAhead = Callable[[int], Iterable[tuple[str, Tensor]]]
"""Gives so many further images of the data set, each with its name: ``(1, 3, H, W)``, normalised."""


class DualImageCLIPModel(nn.Module):
    """Scores unlabelled images with text, with each other and with adapters fitted to each of them.

    Args:
        encoder: Image tower, run along two paths.
        references: Finds the references of each image.
        pseudo_anomalies: Corrupts images for the adaptation.
        adaptation: How the adapter of an image is fitted.
        weights: λ₁ … λ₅.
        temperature: τ of the text scores.
        image_size: Height and width of the square that the tower was trained on; larger images are cut into tiles.
        image_mean: Mean of each channel that images were normalised with.
        image_std: Standard deviation of each channel that images were normalised with.
        smooth: Whether maps are smoothed with a 3×3 mean before they are upsampled.
        seed: Seed of the adapter's start.
    """

    text_embeddings: Tensor
    image_mean: Tensor
    image_std: Tensor
    adapter_weight: Tensor
    adapter_bias: Tensor

    def __init__(
        self,
        encoder: DualPathEncoder,
        references: ReferencePool,
        pseudo_anomalies: PseudoAnomalyGenerator,
        adaptation: AdaptationSettings,
        weights: ScoreWeights,
        temperature: float,
        image_size: tuple[int, int],
        image_mean: Sequence[float],
        image_std: Sequence[float],
        smooth: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.references = references
        self.pseudo_anomalies = pseudo_anomalies
        self.adaptation = adaptation
        self.weights = weights
        self.temperature = temperature
        self.image_size = image_size
        self.smooth = smooth
        dim = encoder.visual.proj.shape[1]
        start = initial_adapter(dim, torch.Generator().manual_seed(seed))
        self.register_buffer("text_embeddings", torch.full((2, dim), float("nan")))
        self.register_buffer("image_mean", torch.tensor(image_mean), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std), persistent=False)
        self.register_buffer("adapter_weight", start.weight, persistent=False)
        self.register_buffer("adapter_bias", start.bias, persistent=False)
        self._warned_of_no_reference = False

    def train(self, mode: bool = True) -> "DualImageCLIPModel":
        """Keeps evaluation mode whatever is asked: nothing here is trained."""
        del mode
        return super().train(False)

    def reset(self) -> None:
        """Starts a run anew: forgets the images seen, restarts everything random."""
        self.references.reset()
        self.pseudo_anomalies.reset()

    @torch.no_grad()
    def forward(
        self, images: Tensor, identities: Sequence[str] | None = None, look_ahead: LookAhead | None = None
    ) -> InferenceBatch:
        """Scores a batch of images.

        Args:
            images: Images normalised for CLIP, ``(B, 3, H, W)``.
            identities: Names of the images, so that none becomes its own reference in a later batch.
            look_ahead: Where to get references from when the batch and the images seen do not have enough.

        Returns:
            ``pred_score``, Eq. 13, ``(B,)``, and ``anomaly_map``, Eq. 12, ``(B, H, W)``.

        Raises:
            RuntimeError: There are no text embeddings yet.
            ValueError: The tower cannot take images of this size.
        """
        self._require_text()
        layout = tile_layout((images.shape[-2], images.shape[-1]), self.image_size)
        class_tokens, patch_tokens = self._encode(images, layout)
        self._fill_references(len(images), identities, look_ahead)
        copies = self.pseudo_anomalous_copies(images, layout) if self.adaptation.steps else None
        # Cosines divided by a temperature of 0.01 need every digit that a float32 has.
        with torch.autocast(images.device.type, enabled=False):
            class_score = self.text_score(class_tokens).mean(dim=1)
            language_map = self.text_score(patch_tokens)
            visual_map = self.visual_map(patch_tokens, identities)
            text_map = language_map
            if copies is not None:
                text_map = self.adapted_map(patch_tokens, *copies, joint_anomaly_map(visual_map, language_map))
            patch_map = fuse_maps(visual_map, text_map, self.weights)
            return InferenceBatch(
                pred_score=fuse_scores(class_score, visual_map, text_map, self.weights),
                anomaly_map=self._to_pixels(patch_map, layout),
            )

    def text_score(self, tokens: Tensor) -> Tensor:
        """Text score of tokens (Eq. 1–3), ``(..., D) -> (...)``."""
        return text_anomaly_score(tokens, self.text_embeddings.float(), self.temperature)

    def visual_map(self, patch_tokens: Tensor, identities: Sequence[str] | None) -> Tensor | None:
        """A^V of every image against its references (Eq. 5), or ``None`` where there are none.

        Args:
            patch_tokens: Patch tokens ``(B, T · h, w, D)``, tiles one below the other.
            identities: Names of the images.

        Returns:
            ``(B, T · h, w)``.
        """
        patches = patch_tokens.flatten(1, 2)
        references = self.references.select(patches, identities)
        self.references.remember(patches, identities)
        if references is None:
            self._warn_of_no_reference()
            return None
        return visual_anomaly_map(patch_tokens, references)

    def pseudo_anomalous_copies(self, images: Tensor, layout: TileLayout) -> tuple[Tensor, Tensor]:
        """Corrupts the images and encodes the copies along the V-V path.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            layout: Their tiles.

        Returns:
            Patch tokens q′ ``(B, N, D)`` and the patches that were corrupted, boolean ``(B, N)``.
        """
        pseudo = self.pseudo_anomalies(denormalize(images, self.image_mean, self.image_std))
        tiles = split_into_tiles(normalize(pseudo.images, self.image_mean, self.image_std), layout)
        tokens = self.encoder.patch_tokens(tiles).unflatten(0, (-1, layout.num_tiles)).flatten(1, 3)
        shares = patch_share(split_into_tiles(pseudo.masks, layout), self.encoder.patch_size)
        return tokens, covered_patches(shares.unflatten(0, (-1, layout.num_tiles)).flatten(1))

    def adapted_map(self, patch_tokens: Tensor, copies: Tensor, covered: Tensor, joint_map: Tensor) -> Tensor:
        """A^T of every image, with an adapter fitted to it (Eq. 7–11).

        Args:
            patch_tokens: Patch tokens ``(B, T · h, w, D)``.
            copies: Patch tokens of the pseudo-anomalous copies, ``(B, N, D)``.
            covered: Patches that were corrupted, ``(B, N)``.
            joint_map: A^VL, ``(B, T · h, w)``.

        Returns:
            ``(B, T · h, w)``.
        """
        text, tokens = self.text_embeddings.float(), patch_tokens.flatten(1, 2)
        task = AdaptationTask(tokens, copies, covered, joint_map.flatten(1), text, self.temperature)
        start = Adapters(self.adapter_weight.float(), self.adapter_bias.float())
        adapters = fit_adapters(start, task, self.adaptation)
        return adapted_scores(task.tokens, adapters, task).view_as(joint_map)

    def _encode(self, images: Tensor, layout: TileLayout) -> ImageFeatures:
        """Class tokens ``(B, T, D)`` and patch tokens ``(B, T · h, w, D)``, tiles one below the other."""
        features = self.encoder(split_into_tiles(images, layout))
        class_tokens, patch_tokens = (tokens.unflatten(0, (-1, layout.num_tiles)) for tokens in features)
        return ImageFeatures(class_tokens, patch_tokens.flatten(1, 2))

    def _fill_references(self, count: int, identities: Sequence[str] | None, look_ahead: LookAhead | None) -> None:
        shortage = self.references.shortage(count, identities)
        if not shortage or look_ahead is None:
            return
        for identity, image in look_ahead(shortage):
            layout = tile_layout((image.shape[-2], image.shape[-1]), self.image_size)
            self.references.remember(self._encode(image, layout).patch_tokens.flatten(1, 2), [identity])

    def _to_pixels(self, patch_map: Tensor, layout: TileLayout) -> Tensor:
        tiles = patch_map.unflatten(1, (layout.num_tiles, -1)).flatten(0, 1)
        return merge_tiles(upsample_map(tiles, layout.tile_size, self.smooth), layout)

    def _require_text(self) -> None:
        if torch.isnan(self.text_embeddings).any():
            msg = "the model does not know what the images show: call set_class_name(...) on DualImageCLIP first"
            raise RuntimeError(msg)

    def _warn_of_no_reference(self) -> None:
        if self.references.num_references and not self._warned_of_no_reference:
            self._warned_of_no_reference = True
            logger.warning("An image has no other image to be compared with; it is scored by text alone.")
