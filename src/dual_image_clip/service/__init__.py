"""The service of ``dual-image-clip serve``: images in over HTTP, scores and boxes out as JSON."""

from dual_image_clip.service.limits import MEGA, Limits
from dual_image_clip.service.server import require_fastapi, serve

__all__ = ["MEGA", "Limits", "require_fastapi", "serve"]
