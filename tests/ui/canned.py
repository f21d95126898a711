"""A scorer that does not score."""

from collections.abc import Callable

from dual_image_clip.prediction import Outcome


class CannedScorer:
    """Says what it is told to say."""

    def __init__(self, score: Callable[..., Outcome], num_golden: int = 0, threshold: float | None = None) -> None:
        self.score = score
        self.num_golden = num_golden
        self.threshold = threshold
        self.has_pixel_threshold = False

    def __call__(self, *arguments: object) -> Outcome:
        return self.score(*arguments)
