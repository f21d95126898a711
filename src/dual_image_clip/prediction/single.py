"""The heatmap of a single photo, which has no run whose colours it could share."""

import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from dual_image_clip.defects import Defect
from dual_image_clip.prediction.outlines import draw_outlines
from dual_image_clip.prediction.sketch import common_scale, draw_overlay, make_sketch

_LONG_SIDE, _QUALITY = 640, 90


def draw_heatmap(photo: Tensor, anomaly_map: Tensor, defects: Sequence[Defect]) -> Image.Image:
    """Draws a photo with its defects, and beside it the photo under its heatmap.

    Args:
        photo: RGB in 0..1, ``(3, H, W)``.
        anomaly_map: Its anomaly map, ``(h, w)``.
        defects: Its defects, which are numbered.

    Returns:
        RGB picture, in which the long side of the photo has at most 640 pixels; a wide photo has its heatmap below.
    """
    shown = to_pil_image(photo.clamp(0, 1).cpu())
    shown.thumbnail((_LONG_SIDE, _LONG_SIDE))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=_QUALITY)
    sketch = make_sketch(photo, anomaly_map)._replace(photo=file.getvalue())
    heatmap = draw_overlay(sketch, common_scale([sketch]))
    if shown.width > shown.height:
        both = Image.new("RGB", (shown.width, 2 * shown.height))
        both.paste(heatmap, (0, shown.height))
    else:
        both = Image.new("RGB", (2 * shown.width, shown.height))
        both.paste(heatmap, (shown.width, 0))
    both.paste(draw_outlines(shown, defects, (photo.shape[-2], photo.shape[-1])), (0, 0))
    return both
