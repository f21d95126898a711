"""Decisions that wait until all images of a run were seen: labels and defects."""

from collections.abc import Iterable

from dual_image_clip.hooks import LabelFreePostProcessor, defects_of
from dual_image_clip.prediction.predictions import Prediction, decide


def decide_all(
    predictions: Iterable[Prediction], post_processor: LabelFreePostProcessor, min_area: int = 0
) -> tuple[list[Prediction], float | None]:
    """Labels images and finds their defects, by the thresholds that hold now.

    Args:
        predictions: Images.
        post_processor: Has seen them all.
        min_area: Pixels of the photo that a defect must have at least.

    Returns:
        The same with labels and defects, and the score above which they are anomalous, ``None`` where there is none.
    """
    threshold = float(post_processor.current_threshold()) if post_processor.can_label() else None
    decided = [
        each._replace(
            label=decide(each.score, threshold),
            defects=defects_of(post_processor, each.score, each.sketch.anomaly_map, each.size, min_area),
        )
        for each in predictions
    ]
    return decided, threshold
