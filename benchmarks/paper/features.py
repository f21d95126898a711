"""Everything about a category's images that no setting changes: encoded once, when it is first asked for."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from kornia.enhance import normalize
from torch import Tensor

from benchmarks.paper.images import CategoryImages
from benchmarks.paper.memo import Memo
from benchmarks.paper.peers import anoclip, musc, winclip
from benchmarks.paper.peers.clip import OrdinaryTokens
from dual_image_clip.method import (
    DualPathEncoder,
    ImageFeatures,
    PseudoAnomalyGenerator,
    covered_patches,
    encode_ensemble,
    patch_share,
    prompt_ensemble,
    split_into_tiles,
    tile_layout,
)
from dual_image_clip.weights import Backbone, cached_text_embeddings

T = TypeVar("T")


class CategoryFeatures:
    """The images of a category as the towers see them.

    Args:
        category: The images.
        backbone: The CLIP model, on the device to be used.
        batch_size: Tiles in a tower pass.
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
        self._batch_size = batch_size
        self._texture_dir = texture_dir
        self._load_golden_images = load_golden_images
        self._encoder = DualPathEncoder(backbone.clip.visual)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.category.images)

    @property
    def text(self) -> Tensor:
        """Embeddings of [normal, anomalous], ``(2, D)``."""

        def encode() -> Tensor:
            ensemble = prompt_ensemble(self.category.class_name)
            clip = self.backbone.clip
            return cached_text_embeddings(
                clip, ensemble, lambda: encode_ensemble(clip, self.backbone.tokenizer, ensemble)
            ).float()

        return self.memo("text", encode)

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
            batches = [self._encoder(tiles) for tiles in self._tiles]
            class_tokens, patch_tokens = (torch.cat(each) for each in zip(*batches, strict=True))
            return ImageFeatures(self._of_images(class_tokens), self._of_images(patch_tokens).flatten(1, 2))

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

    def pseudo_anomalies(self, seed: int) -> tuple[Tensor, Tensor]:
        """Patch tokens of pseudo-anomalous copies, ``(N, T · h · w, D)``, and which of them were corrupted."""

        def encode() -> tuple[Tensor, Tensor]:
            # All at once: what is drawn for an image depends on those that it is drawn with.
            copies = PseudoAnomalyGenerator(self._texture_dir, seed)(self.category.images)
            tiles = split_into_tiles(self._normalised(copies.images), self.layout).split(self._batch_size)
            tokens = self._of_images(torch.cat([self._encoder.patch_tokens(some) for some in tiles]))
            shares = patch_share(split_into_tiles(copies.masks, self.layout), self._encoder.patch_size)
            return tokens.flatten(1, 3), covered_patches(self._of_images(shares).flatten(1)).to(tokens.device)

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
            tiles = split_into_tiles(self._normalised(self._load_golden_images(count, seed)), self.layout)
            tokens = torch.cat([self._encoder.patch_tokens(some) for some in tiles.split(self._batch_size)])
            return self._of_images(tokens).flatten(1, 3)

        return self.memo(("golden images", count, seed), encode)

    def done_with_seed(self, seed: int) -> None:
        """Forgets what belongs to a seed: all whose key ends with it."""

        def belongs(key: Hashable) -> bool:
            return isinstance(key, tuple) and key[-1] == seed

        self.memo.forget(belongs)

    @property
    def _tiles(self) -> tuple[Tensor, ...]:
        return split_into_tiles(self._normalised(self.category.images), self.layout).split(self._batch_size)

    def _normalised(self, images: Tensor) -> Tensor:
        device = self.backbone.clip.visual.proj.device
        mean, std = (torch.tensor(each, device=device) for each in (self.backbone.image_mean, self.backbone.image_std))
        return normalize(images.to(device), mean, std)

    def _of_tiles(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([encode(tiles) for tiles in self._tiles])

    def _of_images(self, tiles: Tensor) -> Any:
        return tiles.unflatten(0, (-1, self.layout.num_tiles))
