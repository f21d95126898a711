"""Pseudo-anomalous copies of images, after DRAEM: a foreign texture, shown through a mask of Perlin noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kornia.augmentation as K  # noqa: N812
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.data.utils import get_image_filenames, read_image
from anomalib.data.utils.generators.perlin import generate_perlin_noise
from torch import Tensor
from torchvision.transforms.v2.functional import resize

_NOISE_THRESHOLD = 0.5
_SMALLEST_NOISE = 64
OPACITY = (0.2, 1.0)
FLIPS = K.AugmentationSequential(K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5))
COLOURS = K.ColorJiggle(brightness=(0.6, 1.4), contrast=(0.5, 2.0), saturation=(0.5, 1.5), hue=(-0.14, 0.14), p=1.0)
_ROTATION = K.RandomRotation(degrees=90.0, p=1.0)
# What kornia notes of a batch as a whole, not of its images.
_OF_THE_BATCH = {"order", "forward_input_shape"}


class PseudoAnomalies(NamedTuple):
    """Corrupted copies of a batch of images.

    Attributes:
        images: The copies, ``(B, 3, H, W)`` in 0..1.
        masks: Where they were corrupted, 0 or 1, ``(B, 1, H, W)``.
    """

    images: Tensor
    masks: Tensor


class PseudoAnomalyGenerator:
    """Makes pseudo anomalies from a folder of textures or, without one, from the images themselves.

    Args:
        texture_dir: Folder of texture images such as DTD. Without one, the texture of an image is another region of
            it, enlarged, flipped and with its colours changed.
        seed: Seed of everything random.

    Attributes:
        seed: See above.
        textures: Texture images, none without a folder.

    Raises:
        ValueError: There is no image in the folder.
    """

    def __init__(self, texture_dir: str | Path | None = None, seed: int = 0) -> None:
        self.seed = seed
        self._generator = torch.Generator()
        self.textures = get_image_filenames(texture_dir) if texture_dir else []
        self.reset()

    def reset(self) -> None:
        """Starts the randomness anew, so that a run repeats itself."""
        self._generator.manual_seed(self.seed)

    def __call__(self, images: Tensor) -> PseudoAnomalies:
        """Corrupts each image.

        Args:
            images: Images ``(B, 3, H, W)`` in 0..1.

        Returns:
            The copies and their masks; no mask is empty.
        """
        return self.draw(len(images), (images.shape[-2], images.shape[-1]))(images, slice(None))

    def draw(self, count: int, size: tuple[int, int]) -> "DrawnPseudoAnomalies":
        """Draws all that is random about the pseudo anomalies of a batch.

        Args:
            count: Number of images.
            size: Their height and width.

        Returns:
            What corrupts the images.
        """
        # kornia and anomalib draw from the global generator, whose state belongs to the caller.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(self.draw_seed())
            noise = _perlin_noise(count, size)
            rotation = _Drawn.of(_ROTATION, noise.shape)
            files: list[Path] = []
            if self.textures:
                files = [self.textures[each] for each in torch.randint(len(self.textures), (count,)).tolist()]
            changes = (FLIPS, COLOURS) if files else (random_region(size), FLIPS, COLOURS)
            drawn = [_Drawn.of(each, torch.Size((count, 3, *size))) for each in changes]
            opacity = torch.empty(count, 1, 1, 1).uniform_(*OPACITY)
        return DrawnPseudoAnomalies(noise, rotation, files, drawn, opacity)

    @property
    def has_textures(self) -> bool:
        """Whether textures come from a folder."""
        return bool(self.textures)

    def draw_seed(self) -> int:
        """Draws the seed of the next batch."""
        return int(torch.randint(2**62, (1,), generator=self._generator))


class _Drawn(NamedTuple):
    """An augmentation of kornia's with the numbers that it has drawn for each image of a batch."""

    augmentation: Any
    numbers: Any

    @classmethod
    def of(cls, augmentation: Any, shape: torch.Size) -> "_Drawn":
        return cls(augmentation, augmentation.forward_parameters(shape))

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        augmented: Tensor = self.augmentation(images, params=_numbers_of(rows, self.numbers))
        return augmented


def _numbers_of(rows: slice, numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [each._replace(data=_numbers_of(rows, each.data)) for each in numbers]
    return {name: values if name in _OF_THE_BATCH else values[rows] for name, values in numbers.items()}


class DrawnPseudoAnomalies(NamedTuple):
    """What corrupts the images of a batch, all of it drawn, so that it may be done in portions.

    Attributes:
        noise: Perlin noise, ``(B, 1, H, W)``.
        rotation: Turns it.
        files: Image that each texture is taken from; empty where it is taken from the image itself.
        changes: What is done to the textures.
        opacity: Of each texture, ``(B, 1, 1, 1)``.
    """

    noise: Tensor
    rotation: _Drawn
    files: Sequence[Path]
    changes: Sequence[_Drawn]
    opacity: Tensor

    def __call__(self, images: Tensor, rows: slice) -> PseudoAnomalies:
        """Corrupts some of the images.

        Args:
            images: These images, ``(b, 3, H, W)`` in 0..1.
            rows: Their place in the batch.

        Returns:
            The copies and their masks; no mask is empty.
        """
        masks = _hills(self.rotation(self.noise[rows], rows)).to(images)
        textures = images.float()
        if self.files:
            size = list(images.shape[-2:])
            read = (read_image(each, as_tensor=True) for each in self.files[rows])
            textures = torch.stack([resize(each, size, antialias=True) for each in read])
        for change in self.changes:
            textures = change(textures, rows)
        return PseudoAnomalies(torch.lerp(images, textures.to(images), masks * self.opacity[rows].to(images)), masks)


def random_region(size: tuple[int, int]) -> K.RandomResizedCrop:
    """Cuts a random region out of each image and enlarges it.

    Args:
        size: Height and width of the images, and of what is made of them.

    Returns:
        kornia's augmentation.
    """
    return K.RandomResizedCrop(size, scale=(0.05, 0.4), ratio=(0.5, 2.0), p=1.0)


def perlin_masks(count: int, size: tuple[int, int]) -> Tensor:
    """Draws masks of random shape from thresholded, rotated Perlin noise, as DRAEM does.

    Args:
        count: Number of masks.
        size: Height and width.

    Returns:
        Masks of 0 and 1, ``(count, 1, H, W)``; none is empty.
    """
    noise = _perlin_noise(count, size)
    return _hills(_ROTATION(noise))


def _perlin_noise(count: int, size: tuple[int, int]) -> Tensor:
    height, width = size
    # anomalib's noise fails, or is zero throughout, on areas no larger than its grid.
    area = (max(height, _SMALLEST_NOISE), max(width, _SMALLEST_NOISE))
    cpu = torch.device("cpu")
    noise = [generate_perlin_noise(*area, device=cpu)[:height, :width] for _ in range(count)]
    return torch.stack(noise).unsqueeze(1)


def _hills(noise: Tensor) -> Tensor:
    """Where noise ``(B, 1, H, W)`` is high: masks of 0 and 1, none empty."""
    # Coarse noise may be a valley throughout, which is a hill upside down, ...
    noise = noise.where(noise.amax(dim=(-2, -1), keepdim=True) > 0, -noise)
    # ... and its hills may stay below the threshold everywhere.
    threshold = (0.8 * noise.amax(dim=(-2, -1), keepdim=True)).clamp(max=_NOISE_THRESHOLD)
    return (noise > threshold).float()


def patch_share(masks: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Share of each patch that a pixel mask covers.

    Args:
        masks: Pixel masks, ``(B, 1, H, W)``.
        patch_size: Height and width of a patch.

    Returns:
        Shares in 0..1, ``(B, H / patch, W / patch)``.
    """
    return F.avg_pool2d(masks, patch_size).squeeze(1)


def covered_patches(shares: Tensor) -> Tensor:
    """Patches that count as pseudo-anomalous: those covered by at least one half, or else the most covered ones.

    Args:
        shares: Share of each patch of an image that the mask covers, ``(B, N)``.

    Returns:
        Boolean ``(B, N)``, with at least one patch in each image.
    """
    return shares >= shares.amax(dim=1, keepdim=True).clamp(max=0.5)
