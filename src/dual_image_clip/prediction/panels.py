"""How a heatmap is drawn: anomalib's panels, in the aspect ratio of the photo."""

from collections.abc import Sequence

from anomalib.data import ImageItem
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import create_image_grid
from anomalib.visualization.image.item_visualizer import visualize_image_item
from PIL import Image

from dual_image_clip.defects import Defect
from dual_image_clip.prediction.outlines import draw_outlines

# The short side of a panel in pixels, unless the long one would be too long, and the least that can be read.
_SHORT_SIDE, _LONGEST, _LEAST = 256, 2048, 96
# Photos that are as many times as wide as high have their panels one below the other.
_WIDE = 2
# The last panels: map and mask.
_OUTLINED = 2


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size in which a photo is shown.

    Args:
        size: Its height and width.

    Returns:
        Width and height of a panel: the photo's aspect ratio, the short side 256 pixels or, where the long one would
        have more than 2048, less; but not below 96, to which the narrowest are stretched.
    """
    height, width = size
    scale = min(_SHORT_SIDE / min(size), _LONGEST / max(size))
    return max(_LEAST, round(width * scale)), max(_LEAST, round(height * scale))


def draw_panels(visualizer: ImageVisualizer, item: ImageItem, panel: tuple[int, int]) -> Image.Image:
    """Draws a photo, its anomaly map and its masks, as far as there are any.

    Args:
        visualizer: Says what is drawn and how.
        item: Photo ``(3, H, W)`` in 0..1, anomaly map ``(H, W)`` and masks.
        panel: Width and height of a panel.

    Returns:
        The panels side by side, or those of wide photos one below the other; the mask's is the last.
    """
    row: Image.Image = visualize_image_item(  # type: ignore[assignment]
        item,
        fields=visualizer.fields,
        overlay_fields=visualizer.overlay_fields,
        field_size=panel,
        fields_config=visualizer.fields_config,
        overlay_fields_config=visualizer.overlay_fields_config,
        text_config=visualizer.text_config,
    )
    width, height = panel
    if width < _WIDE * height:
        return row
    panels = [row.crop((left, 0, left + width, height)) for left in range(0, row.width, width)]
    return create_image_grid(panels, nrow=1)


def outline_panels(
    picture: Image.Image, panel: tuple[int, int], defects: Sequence[Defect], size: tuple[int, int]
) -> Image.Image:
    """Outlines defects in the panels of the anomaly map and of the mask; the photo's own stays as it is.

    Args:
        picture: From :func:`draw_panels`, with a mask that is empty.
        panel: Width and height of a panel.
        defects: Defects of the photo.
        size: Height and width of the photo.

    Returns:
        The picture with the outlines.
    """
    width, height = panel
    outlined = picture.convert("RGB")
    for number in range(1, _OUTLINED + 1):
        side_by_side = picture.width > width
        left, top = (picture.width - number * width, 0) if side_by_side else (0, picture.height - number * height)
        box = left, top, left + width, top + height
        outlined.paste(draw_outlines(outlined.crop(box), defects, size), box)
    return outlined
