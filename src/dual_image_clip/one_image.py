"""One image, scored against references that the caller chooses: what the camera line and the page stand on."""

import copy
from collections.abc import Sequence
from threading import RLock
from typing import Any, NamedTuple

from anomalib.data import ImageBatch
from torch import Tensor

from dual_image_clip.defects import Defect, small_map
from dual_image_clip.hooks import LabelFreePostProcessor, defects_of
from dual_image_clip.lightning_model import DualImageCLIP
from dual_image_clip.torch_model import EncodedImages

SCORING = RLock()
"""The one lock around what is random: pseudo anomalies are drawn from torch's global generator, which all share."""


class OneScore(NamedTuple):
    """What is said about one image.

    Attributes:
        score: How anomalous it is, 0..1.
        label: Whether it is called anomalous: whether the score lies above the threshold.
        anomaly_map: How anomalous each pixel is, at the size that the model works at, 0..1, ``(h, w)``.
        threshold: Score above which an image is called anomalous at this moment, 0..1; 1 as long as there is none.
        num_references: Images that it was compared with, golden ones included.
        defects: Where it is anomalous, in pixels of the photo, the most anomalous place first.
    """

    score: float
    label: bool
    anomaly_map: Tensor
    threshold: float
    num_references: int
    defects: tuple[Defect, ...] = ()


def encode_one(model: DualImageCLIP, pixels: Tensor, name: str | None = None) -> EncodedImages:
    """Pre-processes and encodes an image; several threads may do so at once.

    Args:
        model: The model.
        pixels: Image ``(3, H, W)`` in 0..1.
        name: What its user calls the image.

    Returns:
        A batch of one.

    Raises:
        ValueError: The tower cannot take images of this size.
    """
    return model.model.encode(model.pre_process(pixels.unsqueeze(0)), name and [name])


def score_one(
    model: DualImageCLIP,
    post_processor: LabelFreePostProcessor,
    encoded: EncodedImages,
    references: Sequence[Tensor],
    size: tuple[int, int],
    min_area: int = 0,
) -> OneScore:
    """Scores an image; of several callers, one after the other has its turn.

    Args:
        model: The model, with a class name.
        post_processor: Scales and labels the score, and counts the image as seen.
        encoded: The image.
        references: Patch tokens of the images that it is compared with besides the golden ones, each ``(1, N, D)``.
        size: Height and width of the photo, for its defects.
        min_area: Pixels of the photo that a defect must have at least.

    Returns:
        The result.
    """
    with SCORING:
        predictions = model.model.score(encoded, references)
        batch: Any = ImageBatch(image=encoded.images, **predictions._asdict())
        post_processor.post_process_batch(batch)
        score, anomaly_map = float(batch.pred_score), batch.anomaly_map.squeeze()
        return OneScore(
            score=score,
            label=bool(batch.pred_label),
            anomaly_map=anomaly_map,
            threshold=float(post_processor.current_threshold()),
            num_references=len(references) + model.model.num_golden,
            defects=defects_of(post_processor, score, small_map(anomaly_map), size, min_area),
        )


def own_post_processor(model: DualImageCLIP) -> LabelFreePostProcessor:
    """A post-processor with the model's thresholds and scales that has seen no image yet.

    Args:
        model: The model.

    Raises:
        TypeError: The model has a post-processor of another kind.
    """
    if not isinstance(model.post_processor, LabelFreePostProcessor):
        msg = f"post_processor must be a LabelFreePostProcessor, got {type(model.post_processor).__name__}"
        raise TypeError(msg)
    post_processor = copy.deepcopy(model.post_processor)
    post_processor.forget()
    return post_processor
