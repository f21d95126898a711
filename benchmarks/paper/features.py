"""Everything about a category's images that no setting changes: encoded once, when it is first asked for."""

from collections.abc import Callable, Hashable, Iterator

import torch
from kornia.enhance import normalize
from torch import Tensor

from benchmarks.paper.images import CategoryImages
from benchmarks.paper.memo import Memo
from benchmarks.paper.peers import anoclip, musc, winclip
from benchmarks.paper.peers.clip import OrdinaryTokens
from benchmarks.paper.plan import OURS, Setting
from dual_image_clip.method import (
    DualPathEncoder,
    ImageFeatures,
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    ReferencePool,
    split_into_tiles,
    tile_layout,
)
from dual_image_clip.torch_model import DualImageCLIPModel, PseudoAnomalousCopies
from dual_image_clip.weights import Backbone, class_embeddings


class CategoryFeatures:
    """The images of a category as the towers see them.

    Args:
        category: The images.
        backbone: The CLIP model, on the device to be used.
        batch_size: Tiles in a tower pass; the tiles of one image are never parted.
        texture_dir: Folder of textures for the pseudo anomalies.
        load_golden_images: Gives so many good images of the test images' size, drawn by a seed, ``(K, 3, H, W)``.

    Attributes:
        memo: Keeps what has been computed, and what it took.
        layout: Tiles of each image; all images have the same size.
    """

    def __init__(
        self,
        category: CategoryImages,
        backbone: Backbone,
        batch_size: int,
        texture_dir: str | None = None,
        load_golden_images: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        self.category = category
        self.backbone = backbone
        self.memo = Memo()
        self.layout = tile_layout((category.images.shape[-2], category.images.shape[-1]), backbone.image_size)
        self._images_at_once = max(1, batch_size // self.layout.num_tiles)
        self._texture_dir = texture_dir
        self._load_golden_images = load_golden_images
        self._encoder = DualPathEncoder(backbone.clip.visual)
        self._device = backbone.clip.visual.proj.device

    def __len__(self) -> int:
        """Number of images."""
        return len(self.category.images)

    def model(self, setting: Setting, seed: int) -> DualImageCLIPModel:
        """Our method as a setting has it, around the one tower and with the category's text.

        Args:
            setting: A setting of our method.
            seed: Seed of the pairing, the pseudo anomalies and the adapter's start.

        Returns:
            The model.
        """
        model = self._model_without_text(setting, seed)
        model.text_embeddings.copy_(self.text)
        return model

    @property
    def text(self) -> Tensor:
        """Embeddings of [normal, anomalous], ``(2, D)``."""
        return self.memo("text", lambda: class_embeddings(self.backbone, self.category.class_name).float())

    @property
    def prompts(self) -> Tensor:
        """Embeddings of every prompt, ``(T, D)``."""
        clip, tokenizer = self.backbone.clip, self.backbone.tokenizer
        name = self.category.class_name
        return self.memo("prompts", lambda: anoclip.encode_class_prompts(clip, tokenizer, name))

    @property
    def two_paths(self) -> ImageFeatures:
        """Class tokens ``(N, T, D)`` and V-V patch tokens ``(N, T · h, w, D)``, tiles one below the other."""

        def encode() -> ImageFeatures:
            model = self._model_without_text(Setting(OURS), 0)
            batches = [model.encode(images) for images in self._batches(self.category.images)]
            return ImageFeatures(
                torch.cat([batch.class_tokens for batch in batches]),
                torch.cat([batch.patch_tokens for batch in batches]),
            )

        return self.memo("two paths", encode)

    @property
    def ordinary(self) -> OrdinaryTokens:
        """Tokens of the ordinary path, of each tile: class, patches and those of four layers."""
        visual = self.backbone.clip.visual

        def encode() -> OrdinaryTokens:
            batches = [musc.encode(visual, tiles) for tiles in self._tiles]
            return OrdinaryTokens(*(torch.cat(each) for each in zip(*batches, strict=True)))

        return self.memo("ordinary path", encode)

    @property
    def long_patch_tokens(self) -> Tensor:
        """V-V patch tokens with their own length, of each tile, ``(M, h, w, D)``."""
        visual = self.backbone.clip.visual
        return self.memo("V-V path", lambda: self._of_tiles(lambda tiles: anoclip.encode_patches(visual, tiles)))

    @property
    def views(self) -> Tensor:
        """Class tokens of 22 views of each tile, ``(M, 22, D)``."""
        visual = self.backbone.clip.visual
        return self.memo("views", lambda: self._of_tiles(lambda tiles: anoclip.encode_views(visual, tiles)))

    @property
    def windows(self) -> tuple[winclip.WinClip, winclip.WinClipFeatures]:
        """WinCLIP as anomalib has it for this category, and what it makes of each tile."""

        def encode() -> tuple[winclip.WinClip, winclip.WinClipFeatures]:
            model = winclip.WinClip(
                self.backbone.clip, self.backbone.tokenizer, self.category.class_name, self.backbone.temperature
            )
            batches = [winclip.encode(model, tiles) for tiles in self._tiles]
            windows = [torch.cat(scale) for scale in zip(*(batch.windows for batch in batches), strict=True)]
            return model, winclip.WinClipFeatures(torch.cat([batch.images for batch in batches]), windows)

        return self.memo("windows", encode)

    def pseudo_anomalies(self, seed: int) -> PseudoAnomalousCopies:
        """The images' corrupted copies.

        Args:
            seed: Seed of all that is drawn for them.

        Returns:
            The copies.
        """

        def encode() -> PseudoAnomalousCopies:
            model = self._model_without_text(Setting(OURS), seed)
            # All at once: what is drawn for an image depends on those that it is drawn with.
            pseudo = model.pseudo_anomalies(self.category.images)
            batches = [
                model.encode_copies(PseudoAnomalies(*(each.to(self._device) for each in some)), self.layout)
                for some in zip(*(each.split(self._images_at_once) for each in pseudo), strict=True)
            ]
            return PseudoAnomalousCopies(*(torch.cat(each) for each in zip(*batches, strict=True)))

        return self.memo(("pseudo anomalies", seed), encode)

    def golden_patch_tokens(self, count: int, seed: int) -> Tensor:
        """Patch tokens of good training images, ``(K, T · h · w, D)``.

        Args:
            count: Number of images.
            seed: Seed of their choice.

        Raises:
            ValueError: There is nowhere to take them from, or there are not so many.
        """

        def encode() -> Tensor:
            if self._load_golden_images is None:
                msg = "k_shot needs training images, but there are none"
                raise ValueError(msg)
            model = self._model_without_text(Setting(OURS), seed)
            images = self._load_golden_images(count, seed)
            return torch.cat([model.encode(some).patches for some in self._batches(images)])

        return self.memo(("golden images", count, seed), encode)

    def done_with_seed(self, seed: int) -> None:
        """Forgets what belongs to a seed: all whose key ends with it."""

        def belongs(key: Hashable) -> bool:
            return isinstance(key, tuple) and key[-1] == seed

        self.memo.forget(belongs)

    def _model_without_text(self, setting: Setting, seed: int) -> DualImageCLIPModel:
        return DualImageCLIPModel(
            self._encoder,
            ReferencePool(setting.num_references, seed),
            PseudoAnomalyGenerator(self._texture_dir, seed),
            setting.adaptation,
            setting.weights,
            self.backbone.temperature,
            self.backbone.image_size,
            self.backbone.image_mean,
            self.backbone.image_std,
            seed=seed,
            aggregation=setting.aggregation,
        ).to(self._device)

    def _batches(self, images: Tensor) -> Iterator[Tensor]:
        """Images on the tower's device, normalised for it, a few at once."""
        mean, std = (
            torch.tensor(each, device=self._device) for each in (self.backbone.image_mean, self.backbone.image_std)
        )
        for some in images.split(self._images_at_once):
            yield normalize(some.to(self._device), mean, std)

    @property
    def _tiles(self) -> Iterator[Tensor]:
        return (split_into_tiles(images, self.layout) for images in self._batches(self.category.images))

    def _of_tiles(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([encode(tiles) for tiles in self._tiles])
