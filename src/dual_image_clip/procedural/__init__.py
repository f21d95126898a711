"""Procedural industrial images with defects and pixel masks, and an anomalib datamodule that draws its data with them.

``HELD_OUT_FAMILIES`` and ``HELD_OUT_DEFECTS`` are for tests alone: no model may be trained on them, so that they stay
an honest measure of what it does on products and defects it has never seen.
"""

from typing import TYPE_CHECKING, Any

from dual_image_clip.procedural.canvas import generator
from dual_image_clip.procedural.defects import DEFECTS, HELD_OUT_DEFECTS
from dual_image_clip.procedural.families import FAMILIES, HELD_OUT_FAMILIES
from dual_image_clip.procedural.render import RENDERER_VERSION, Category

if TYPE_CHECKING:
    from dual_image_clip.procedural.datamodule import Procedural

__all__ = [
    "DEFECTS",
    "FAMILIES",
    "HELD_OUT_DEFECTS",
    "HELD_OUT_FAMILIES",
    "RENDERER_VERSION",
    "Category",
    "Procedural",
    "generator",
]


def __getattr__(name: str) -> Any:
    # The renderer alone needs neither torch nor anomalib.
    if name == "Procedural":
        from dual_image_clip.procedural.datamodule import Procedural

        return Procedural
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
