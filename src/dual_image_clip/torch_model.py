"""Fig. 2 of the paper as one module: images in, anomaly map and score out."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from anomalib.data import InferenceBatch
from kornia.enhance import denormalize, normalize
from torch import Tensor, nn

from dual_image_clip.method import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    DualPathEncoder,
    FusedScores,
    ImageFeatures,
    Inspected,
    Portions,
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    ReferencePool,
    ScoreWeights,
    TileLayout,
    adapted_scores,
    aggregate_references,
    as_references,
    blamed_on_batch_size,
    covered_inside,
    covered_patches,
    fit_adapters,
    fuse,
    initial_adapter,
    inspected_patches,
    joint_anomaly_map,
    patch_share,
    require_aggregation,
    split_into_tiles,
    text_anomaly_score,
    tile_layout,
    to_pixels,
    visual_anomaly_maps,
)

logger = logging.getLogger(__name__)

LookAhead = Callable[[int], Iterable[tuple[str, Tensor]]]
"""Gives so many further images of the data set, each with its name: ``(1, 3, H, W)``, normalised."""


class TellsRegions(Protocol):
    """Says where images are inspected."""

    def mask(self, name: str | None, size: tuple[int, int]) -> Tensor:
        """The pixels inside of an image of some name, boolean, of height and width ``size``."""


class EncodedImages(NamedTuple):
    """A batch of images as the tower sees it.

    Attributes:
        images: Images normalised for CLIP, ``(B, 3, H, W)``.
        layout: Their tiles.
        class_tokens: Class token of each tile, ``(B, T, D)``.
        patch_tokens: Patch tokens ``(B, T · h, w, D)``, tiles one below the other.
        inspected: Where the images are inspected; ``None`` for everywhere.
    """

    images: Tensor
    layout: TileLayout
    class_tokens: Tensor
    patch_tokens: Tensor
    inspected: Inspected | None = None

    @property
    def patches(self) -> Tensor:
        """Patch tokens in a row, as others are compared with them, ``(B, T · h · w, D)``; none from outside."""
        return as_references(self.patch_tokens, self.inspected)

    def some(self, rows: slice) -> "EncodedImages":
        """Some of the images."""
        return self._replace(
            images=self.images[rows],
            class_tokens=self.class_tokens[rows],
            patch_tokens=self.patch_tokens[rows],
            inspected=None if self.inspected is None else self.inspected.some(rows),
        )


class Comparison(NamedTuple):
    """What a step says about a batch of images.

    Attributes:
        predictions: ``pred_score``, Eq. 13, ``(B,)``, and ``anomaly_map``, Eq. 12, ``(B, H, W)``.
        num_references: Images that each was compared with, golden ones included.
        patch_maps: What :meth:`DualImageCLIPModel.at_pixels` makes the anomaly maps of, ``(B, T · h, w)``.
        inspected: Pixels that were inspected, boolean, ``(B, H, W)``; ``None`` for all.
    """

    predictions: InferenceBatch
    num_references: int
    patch_maps: Tensor
    inspected: Tensor | None = None


class PseudoAnomalousCopies(NamedTuple):
    """Corrupted copies of a batch of images, encoded along the V-V path.

    Attributes:
        tokens: Patch tokens q′, ``(B, T · h · w, D)``.
        covered: Patches that were corrupted, boolean, ``(B, T · h · w)``.
    """

    tokens: Tensor
    covered: Tensor


class DualImageCLIPModel(nn.Module):
    """Scores unlabelled images with text, with each other and with adapters fitted to each of them.

    A batch for which memory is short is scored in portions, with the same results: its partners and pseudo anomalies
    are drawn for the batch as a whole.

    Golden images, known to be good, serve every image as further references, once :meth:`set_golden_images` has been
    given some. Their patch tokens are the buffer ``golden_references``, ``(K · T · h · w, D)``, which is saved and
    restored with the weights whatever its size; without golden images it is empty, ``(0, D)``.

    Args:
        encoder: Image tower, run along two paths.
        references: Finds the references of each image.
        pseudo_anomalies: Corrupts images for the adaptation.
        adaptation: How the adapter of an image is fitted.
        weights: λ₁ … λ₅.
        temperature: τ of the text scores.
        image_size: Height and width of the square that the tower is given; larger images are cut into tiles.
        image_mean: Mean of each channel that images were normalised with.
        image_std: Standard deviation of each channel that images were normalised with.
        smooth: Whether maps are smoothed with a 3×3 mean before they are upsampled.
        seed: Seed of the adapter's start.
        aggregation: What becomes of the distances to several references, see
            :func:`~dual_image_clip.method.scoring.aggregate_references`.
        regions: Say where images are inspected; ``None`` for everywhere. Outside, there is no score and no reference;
            the tower sees the whole image.

    Raises:
        ValueError: The aggregation is unknown.
    """

    text_embeddings: Tensor
    golden_references: Tensor
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
        aggregation: str = "minimum",
        regions: TellsRegions | None = None,
    ) -> None:
        super().__init__()
        require_aggregation(aggregation)
        self.encoder = encoder
        self.references = references
        self.pseudo_anomalies = pseudo_anomalies
        self.adaptation = adaptation
        self.weights = weights
        self.temperature = temperature
        self.image_size = image_size
        self.smooth = smooth
        self.aggregation = aggregation
        self.regions = regions
        self.in_portions: Any = Portions()
        self._patches_of_golden: list[int] = []
        dim = encoder.visual.proj.shape[1]
        start = initial_adapter(dim, torch.Generator().manual_seed(seed))
        self.register_buffer("text_embeddings", torch.full((2, dim), float("nan")))
        self.register_buffer("golden_references", torch.empty(0, dim))
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

    @property
    def num_golden(self) -> int:
        """Number of golden images."""
        return len(self._patches_of_golden)

    @property
    def golden_tokens(self) -> list[Tensor]:
        """Patch tokens of each golden image, ``(N, D)``."""
        return list(self.golden_references.split(self._patches_of_golden))

    def set_golden_images(self, images: Iterable[Tensor], names: Iterable[str] | None = None) -> None:
        """Keeps the patch tokens of golden images, instead of those that there were before.

        Args:
            images: Images normalised for CLIP, each ``(1, 3, H, W)``; sizes may differ.
            names: Their names.

        Raises:
            ValueError: The tower cannot take images of this size.
        """
        # A buffer made in inference mode could not be changed in place outside it.
        with torch.inference_mode(False):
            named = ((each, None) for each in images) if names is None else zip(images, names, strict=True)
            self.set_golden_tokens([self.encode(image, name and [name]).patches[0] for image, name in named])

    def set_golden_tokens(self, tokens: Sequence[Tensor]) -> None:
        """Keeps patch tokens of golden images that were encoded before, instead of those that there were.

        Args:
            tokens: Of each image, ``(N, D)``.
        """
        with torch.inference_mode(False):
            kept = self.golden_references[:0]
            self.golden_references = torch.cat([kept, *(each.to(kept) for each in tokens)])
        self._patches_of_golden = [len(each) for each in tokens]

    def forward(
        self, images: Tensor, identities: Sequence[str] | None = None, look_ahead: LookAhead | None = None
    ) -> InferenceBatch:
        """Scores a batch of images; see :meth:`compare`."""
        return self.compare(images, identities, look_ahead).predictions

    @torch.no_grad()
    def compare(
        self, images: Tensor, identities: Sequence[str] | None = None, look_ahead: LookAhead | None = None
    ) -> Comparison:
        """Scores a batch of images against each other, the images seen last and the golden ones.

        Args:
            images: Images normalised for CLIP, ``(B, 3, H, W)``.
            identities: Names of the images, so that none becomes its own reference in a later batch.
            look_ahead: Where to get references from when the batch and the images seen do not have enough.

        Returns:
            Scores and maps, and the number of references.

        Raises:
            NotEnoughMemoryError: Memory does not suffice for one image, or for what the batch has in common.
            RuntimeError: There are no text embeddings yet.
            ValueError: The tower cannot take images of this size.
        """
        self._require_text()
        with blamed_on_batch_size(len(images)):
            encoded = self.encode(images, identities)
            self._fill_references(len(images), identities, look_ahead)
            references = self.references.select(encoded.patches, identities)
            self.references.remember(encoded.patches, identities)
            if not references and not self.num_golden:
                self._warn_of_no_reference()
            fused = self._fused(encoded, references)
            count, pixels = len(references) + self.num_golden, encoded.inspected and encoded.inspected.pixels
            return Comparison(_predictions(fused), count, fused.patches, pixels)

    def pass_over(self, count: int) -> None:
        """Draws for a batch of images that is not compared, so that those after it draw what they would have drawn.

        Args:
            count: Number of images.
        """
        self.references.pass_over(count)
        if self.adaptation.steps:
            self.pseudo_anomalies.draw_seed()

    @torch.no_grad()
    def at_pixels(self, patch_maps: Tensor, image_size: tuple[int, int], inspected: Inspected | None = None) -> Tensor:
        """Makes the anomaly maps that a comparison has made, from its maps of patches.

        Args:
            patch_maps: Those of a :class:`Comparison`, ``(B, T · h, w)``.
            image_size: Height and width of the images.
            inspected: Where they are inspected; ``None`` for everywhere.

        Returns:
            Anomaly maps ``(B, H, W)``.

        Raises:
            NotEnoughMemoryError: Memory does not suffice for one image.
        """
        layout = tile_layout(image_size, self.image_size)

        def some_at_pixels(rows: slice) -> Tensor:
            return to_pixels(patch_maps[rows], layout, self.smooth, inspected and inspected.some(rows))

        with torch.autocast(patch_maps.device.type, enabled=False):
            maps: Tensor = self.in_portions(patch_maps.shape[0], some_at_pixels)
        return maps

    @torch.no_grad()
    def encode(self, images: Tensor, names: Sequence[str] | None = None) -> EncodedImages:
        """Runs the tower; changes nothing, so several threads may do so at once.

        Args:
            images: Images normalised for CLIP, ``(B, 3, H, W)``.
            names: Their names, by which regions of inspection may be found.

        Returns:
            The images and their tokens.

        Raises:
            NotEnoughMemoryError: Memory does not suffice for one image.
            ValueError: The tower cannot take images of this size.
        """
        layout = tile_layout((images.shape[-2], images.shape[-1]), self.image_size)

        def encode_some(rows: slice) -> ImageFeatures:
            features: ImageFeatures = self.encoder(split_into_tiles(images[rows], layout))
            return features

        # Not `len`, which would fix the batch size of an exported graph.
        features = self.in_portions(images.shape[0], encode_some)
        class_tokens, patch_tokens = (tokens.unflatten(0, (-1, layout.num_tiles)) for tokens in features)
        inspected = self.inspect(images, names)
        return EncodedImages(images, layout, class_tokens, patch_tokens.flatten(1, 2), inspected)

    def inspect(self, images: Tensor, names: Sequence[str] | None = None) -> Inspected | None:
        """Finds out where images are inspected.

        Args:
            images: Images ``(B, 3, H, W)``.
            names: Their names, by which regions may be found.

        Returns:
            Pixels and patches inside; ``None`` for everywhere.
        """
        if self.regions is None:
            return None
        size = images.shape[-2], images.shape[-1]
        if names is None:
            pixels = self.regions.mask(None, size).expand(images.shape[0], -1, -1)
        else:
            pixels = torch.stack([self.regions.mask(name, size) for name in names])
        return inspected_patches(pixels.to(images.device), tile_layout(size, self.image_size), self.encoder.patch_size)

    @torch.no_grad()
    def score(self, encoded: EncodedImages, references: Sequence[Tensor]) -> InferenceBatch:
        """Scores images that were encoded.

        Args:
            encoded: The images.
            references: Patch tokens of the images that each is compared with besides the golden ones, ``(B, N, D)``
                for each of them.

        Returns:
            ``pred_score``, Eq. 13, ``(B,)``, and ``anomaly_map``, Eq. 12, ``(B, H, W)``.

        Raises:
            NotEnoughMemoryError: Memory does not suffice for one image.
        """
        return _predictions(self._fused(encoded, references))

    def _fused(self, encoded: EncodedImages, references: Sequence[Tensor]) -> FusedScores:
        count = encoded.images.shape[0]
        corrupt = self.pseudo_anomalies.draw(count, encoded.layout.image_size) if self.adaptation.steps else None

        def score_some(rows: slice) -> FusedScores:
            some, copies = encoded.some(rows), None
            if corrupt is not None:
                images = denormalize(some.images, self.image_mean, self.image_std)
                copies = self.encode_copies(corrupt(images, rows), some.layout)
            return self._score_at_once(some, [each[rows] for each in references], copies)

        fused: FusedScores = self.in_portions(count, score_some)
        return fused

    def _score_at_once(
        self, encoded: EncodedImages, references: Sequence[Tensor], copies: PseudoAnomalousCopies | None
    ) -> FusedScores:
        # Cosines divided by a temperature of 0.01 need every digit that a float32 has.
        with torch.autocast(encoded.images.device.type, enabled=False):
            visual_map = self.visual_map(encoded.patch_tokens, references)
            text_map = self.text_score(encoded.patch_tokens)
            if copies is not None:
                joint_map = joint_anomaly_map(visual_map, text_map)
                text_map = self.adapted_map(encoded.patch_tokens, copies, joint_map, encoded.inspected)
            return self.fuse(encoded.class_tokens, visual_map, text_map, encoded.layout, encoded.inspected)

    def fuse(
        self,
        class_tokens: Tensor,
        visual_map: Tensor | None,
        text_map: Tensor,
        layout: TileLayout,
        inspected: Inspected | None = None,
    ) -> FusedScores:
        """Puts the scores of images together (Eq. 12 and 13).

        Args:
            class_tokens: Class token of each tile, ``(B, T, D)``.
            visual_map: A^V, ``(B, T · h, w)``, or ``None`` where there are no references.
            text_map: A^T, of the same shape; A^L where nothing was adapted.
            layout: Tiles of the images.
            inspected: Where the images are inspected; ``None`` for everywhere.

        Returns:
            Score and anomaly map of each image.
        """
        class_scores = self.text_score(class_tokens)
        return fuse(class_scores, visual_map, text_map, self.weights, layout, self.smooth, inspected)

    def text_score(self, tokens: Tensor) -> Tensor:
        """Text score of tokens (Eq. 1–3), ``(..., D) -> (...)``."""
        return text_anomaly_score(tokens, self.text_embeddings.float(), self.temperature)

    def visual_map(self, patch_tokens: Tensor, references: Sequence[Tensor]) -> Tensor | None:
        """A^V of every image against its references and the golden images (Eq. 5), or ``None`` where there are none.

        Args:
            patch_tokens: Patch tokens ``(B, T · h, w, D)``, tiles one below the other.
            references: Patch tokens of each reference, ``(B, N, D)``.

        Returns:
            ``(B, T · h, w)``.
        """
        count = patch_tokens.shape[0]
        golden = self.golden_references.to(patch_tokens).split(self._patches_of_golden)
        compared = [*references, *(each.expand(count, -1, -1) for each in golden)]
        if not compared:
            return None
        return aggregate_references(visual_anomaly_maps(patch_tokens, compared), self.aggregation)

    @torch.no_grad()
    def encode_copies(self, pseudo: PseudoAnomalies, layout: TileLayout) -> PseudoAnomalousCopies:
        """Encodes corrupted copies of images along the V-V path.

        Args:
            pseudo: The copies, in 0..1, and where they were corrupted.
            layout: Their tiles.

        Returns:
            The copies' tokens, and the patches that count as corrupted.
        """
        tiles = split_into_tiles(normalize(pseudo.images, self.image_mean, self.image_std), layout)
        tokens = self.encoder.patch_tokens(tiles).unflatten(0, (-1, layout.num_tiles)).flatten(1, 3)
        shares = patch_share(split_into_tiles(pseudo.masks, layout), self.encoder.patch_size)
        return PseudoAnomalousCopies(tokens, covered_patches(shares.unflatten(0, (-1, layout.num_tiles)).flatten(1)))

    def adapted_map(
        self,
        patch_tokens: Tensor,
        copies: PseudoAnomalousCopies,
        joint_map: Tensor,
        inspected: Inspected | None = None,
    ) -> Tensor:
        """A^T of every image, with an adapter fitted to it (Eq. 7–11).

        Args:
            patch_tokens: Patch tokens ``(B, T · h, w, D)``.
            copies: Pseudo-anomalous copies of the images.
            joint_map: A^VL, ``(B, T · h, w)``.
            inspected: Where the images are inspected, to which the adapters are fitted; ``None`` for everywhere.

        Returns:
            ``(B, T · h, w)``.
        """
        text, tokens = self.text_embeddings.float(), patch_tokens.flatten(1, 2)
        covered, inside = covered_inside(copies.covered, inspected), None
        if inspected is not None:
            joint_map, inside = joint_map.where(inspected.patches, 0), inspected.patches.flatten(1)
        task = AdaptationTask(tokens, copies.tokens, covered, joint_map.flatten(1), text, self.temperature, inside)
        start = Adapters(self.adapter_weight.float(), self.adapter_bias.float())
        adapters = self.fit(start, task, self.adaptation)
        return adapted_scores(task.tokens, adapters, task).view_as(joint_map)

    @staticmethod
    def fit(start: Adapters, task: AdaptationTask, settings: AdaptationSettings) -> Adapters:
        """Fits the adapters; see :func:`~dual_image_clip.method.adaptation.fit_adapters`."""
        return fit_adapters(start, task, settings)

    def _fill_references(self, count: int, identities: Sequence[str] | None, look_ahead: LookAhead | None) -> None:
        shortage = self.references.shortage(count, identities)
        if not shortage or look_ahead is None:
            return
        for identity, image in look_ahead(shortage):
            self.references.remember(self.encode(image, [identity]).patches, [identity])

    def _require_text(self) -> None:
        if torch.isnan(self.text_embeddings).any():
            msg = "the model does not know what the images show: call set_class_name(...) on DualImageCLIP first"
            raise RuntimeError(msg)

    def _warn_of_no_reference(self) -> None:
        if self.references.num_references and not self._warned_of_no_reference:
            self._warned_of_no_reference = True
            logger.warning("An image has no other image to be compared with; it is scored by text alone.")

    def get_extra_state(self) -> Tensor:
        """Number of patches of each golden image, ``(K,)``, which is saved with the weights."""
        return torch.tensor(self._patches_of_golden, dtype=torch.long)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the number of patches of each golden image.

        Args:
            state: As :meth:`get_extra_state` gives it.
        """
        self._patches_of_golden = state.tolist()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Makes room for as many golden references as come; older checkpoints have none and leave them as they are."""
        tokens = state_dict.setdefault(f"{prefix}golden_references", self.golden_references)
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        self.golden_references = self.golden_references.new_empty(len(tokens), self.golden_references.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _predictions(fused: FusedScores) -> InferenceBatch:
    return InferenceBatch(pred_score=fused.images, anomaly_map=fused.pixels)
