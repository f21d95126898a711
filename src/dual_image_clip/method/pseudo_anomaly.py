"""Pseudo-anomalous copies of images, after DRAEM: a foreign texture, shown through a mask of Perlin noise."""

from pathlib import Path
from typing import NamedTuple

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

    Raises:
        ValueError: There is no image in the folder.
    """

    def __init__(self, texture_dir: str | Path | None = None, seed: int = 0) -> None:
        self.seed = seed
        self._generator = torch.Generator()
        self._textures = get_image_filenames(texture_dir) if texture_dir else []
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
        # kornia and anomalib draw from the global generator, whose state belongs to the caller.
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(self.draw_seed())
            masks = perlin_masks(len(images), (images.shape[-2], images.shape[-1])).to(images)
            textures = self._foreign_textures(images) if self._textures else self._own_textures(images)
            low, high = OPACITY
            opacity = torch.empty(len(images), 1, 1, 1).uniform_(low, high).to(images)
        return PseudoAnomalies(torch.lerp(images, textures, masks * opacity), masks)

    @property
    def has_textures(self) -> bool:
        """Whether textures come from a folder."""
        return bool(self._textures)

    def draw_seed(self) -> int:
        """Draws the seed of the next batch."""
        return int(torch.randint(2**62, (1,), generator=self._generator))

    def _own_textures(self, images: Tensor) -> Tensor:
        region = random_region((images.shape[-2], images.shape[-1]))
        return COLOURS(FLIPS(region(images.float()))).to(images)

    def _foreign_textures(self, images: Tensor) -> Tensor:
        size = list(images.shape[-2:])
        chosen = torch.randint(len(self._textures), (len(images),)).tolist()
        textures = [resize(read_image(self._textures[index], as_tensor=True), size, antialias=True) for index in chosen]
        return COLOURS(FLIPS(torch.stack(textures))).to(images)


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
    height, width = size
    # anomalib's noise fails, or is zero throughout, on areas no larger than its grid.
    area = (max(height, _SMALLEST_NOISE), max(width, _SMALLEST_NOISE))
    cpu = torch.device("cpu")
    noise = torch.stack([generate_perlin_noise(*area, device=cpu)[:height, :width] for _ in range(count)])
    noise = K.RandomRotation(degrees=90.0, p=1.0)(noise.unsqueeze(1))
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
