"""What the pictures of a run show of a scored batch."""

from typing import Any

from kornia.enhance import denormalize
from torch import Tensor

from dual_image_clip.photos import UnusableImageError, photo_size


def names_of(batch: Any, batch_idx: int) -> list[str]:
    """Names of the images of a batch: their paths, or numbers where they have none.

    Args:
        batch: Scored batch.
        batch_idx: Its number in the run.
    """
    return batch.image_path or [f"image {batch_idx}.{index}" for index in range(len(batch.image))]


def images_of(batch: Any, model: Any) -> Tensor:
    """The images of a batch as they were scored.

    Args:
        batch: Scored batch, its images ``(B, 3, H, W)`` normalised.
        model: A :class:`~dual_image_clip.lightning_model.DualImageCLIP`.

    Returns:
        RGB in 0..1 on the CPU, ``(B, 3, H, W)``.
    """
    images: Tensor = denormalize(batch.image, model.model.image_mean, model.model.image_std)
    return images.float().clamp(0, 1).cpu()


def size_of(photo: str, anomaly_map: Tensor) -> tuple[int, int]:
    """Height and width of a photo as a viewer shows it, or of its map ``(H, W)`` where there is no file."""
    try:
        return photo_size(photo)
    except UnusableImageError:
        return anomaly_map.shape[-2], anomaly_map.shape[-1]
