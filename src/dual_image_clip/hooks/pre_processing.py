"""What is done to images before the model sees them."""

from collections.abc import Sequence

from anomalib.pre_processing import PreProcessor
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms.v2 import Compose, Normalize, Resize


def clip_pre_processor(
    size: int | tuple[int, int],
    mean: Sequence[float] = OPENAI_DATASET_MEAN,
    std: Sequence[float] = OPENAI_DATASET_STD,
) -> PreProcessor:
    """Bilinear resizing and CLIP's normalisation.

    Args:
        size: Length of the short side in pixels, the aspect ratio stays (supplement, section 1); or height and width.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Returns:
        anomalib's pre-processor.
    """
    return PreProcessor(Compose([Resize(size, antialias=True), Normalize(mean=list(mean), std=list(std))]))


def require_same_resolution(saved: tuple[int, int] | None, image_size: tuple[int, int]) -> None:
    """Refuses a checkpoint of another resolution, whose pre-processor, thresholds and golden images do not fit.

    Args:
        saved: Height and width of the squares that the model of the checkpoint was given; ``None`` where it does not
            say.
        image_size: Height and width of those that the model is to be given.

    Raises:
        ValueError: They differ.
    """
    if saved is not None and tuple(saved) != image_size:
        then, now = ("×".join(map(str, each)) for each in (saved, image_size))
        msg = (
            f"the checkpoint was made at {then} pixels, but the model is to work at {now}: set image_size as it was, "
            "or do without the checkpoint"
        )
        raise ValueError(msg)
