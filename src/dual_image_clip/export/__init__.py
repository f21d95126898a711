"""The detector without randomness and autograd, as a file that other programs run."""

from dual_image_clip.export.detector import ExportableDetector
from dual_image_clip.export.mixin import ExportsDetector
from dual_image_clip.export.thresholds_in_files import set_threshold

__all__ = ["ExportableDetector", "ExportsDetector", "set_threshold"]
