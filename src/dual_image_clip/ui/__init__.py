"""The page of ``dual-image-clip ui``: drop images, see them ranked, with heatmaps."""

from dual_image_clip.ports import require_free_port
from dual_image_clip.ui.server import require_gradio, serve

__all__ = ["require_free_port", "require_gradio", "serve"]
