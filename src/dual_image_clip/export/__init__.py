"""The detector without randomness and autograd, as a file that other programs run."""

from dual_image_clip.export.detector import ExportableDetector
from dual_image_clip.export.mixin import ExportsDetector

__all__ = ["ExportableDetector", "ExportsDetector"]
