"""Dual-image enhanced CLIP for zero-shot anomaly detection, as an anomalib model.

Importing this package is free: torch and anomalib are loaded when
:class:`~dual_image_clip.lightning_model.DualImageCLIP` is first touched.
"""

# Every interpreter imports this package (see plugin.py), so not even typing is loaded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dual_image_clip.lightning_model import DualImageCLIP
    from dual_image_clip.presets import BEST

__all__ = ["BEST", "DualImageCLIP"]
__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    if name == "DualImageCLIP":
        from dual_image_clip.lightning_model import DualImageCLIP

        return DualImageCLIP
    if name == "BEST":
        from dual_image_clip.presets import BEST

        return BEST
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
