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
