"""Settings to start from, other than the paper's.

Example:
    >>> from dual_image_clip import BEST, DualImageCLIP
    >>> model = DualImageCLIP(class_name="metal nut", **BEST)  # doctest: +SKIP
"""

from typing import Any

BEST: dict[str, Any] = {
    "num_references": 8,
    "aggregation": "lowest_third",
    "lambda_2": 1.0,
    "peak_share": 0.02,
    "adaptation_steps": 0,
}
"""Arguments of :class:`~dual_image_clip.lightning_model.DualImageCLIP` that were measured to be best with at most eight
references, see ``docs/past_the_paper.md``; the same as in ``configs/best.yaml``."""
