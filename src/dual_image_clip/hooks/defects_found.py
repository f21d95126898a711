"""The defects of an image, at the threshold that a run has for pixels."""

import torch
from torch import Tensor

from dual_image_clip.defects import Defect, find_defects
from dual_image_clip.hooks.post_processing import LabelFreePostProcessor


def defects_of(
    post_processor: LabelFreePostProcessor,
    score: float,
    anomaly_map: Tensor,
    size: tuple[int, int],
    min_area: int = 0,
) -> tuple[Defect, ...]:
    """Finds the defects of an image at the present threshold, the same wherever an image is scored.

    Where maps have no threshold of their own, an image has defects exactly where it is called anomalous, before small
    ones are left out, and the first has the image's score.

    Args:
        post_processor: Has the threshold; the image need not be among those that it has seen.
        score: The image's score, as predicted.
        anomaly_map: A :func:`~dual_image_clip.defects.small_map` of its anomaly map, as predicted.
        size: Height and width of the photo.
        min_area: Pixels of the photo that a defect must have at least.

    Returns:
        Its defects, the most anomalous place first.
    """
    scores = post_processor.comparable_maps(torch.tensor([score]), anomaly_map[None].float())
    return find_defects(scores[0], float(post_processor.current_pixel_threshold()), size, min_area)
