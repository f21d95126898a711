"""How a heatmap is drawn: anomalib's panels, in the aspect ratio of the photo."""

import torch.nn.functional as F  # noqa: N812
from anomalib.data import ImageItem
from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image.functional import create_image_grid, overlay_image, visualize_pred_mask
from anomalib.visualization.image.item_visualizer import visualize_image_item
from PIL import Image
from torch import Tensor

# The short side of a panel in pixels, unless the long one would be too long, and the least that can be read.
_SHORT_SIDE, _LONGEST, _LEAST = 256, 2048, 96
# Photos that are as many times as wide as high have their panels one below the other.
_WIDE = 2


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


def draw_mask(visualizer: ImageVisualizer, picture: Image.Image, panel: tuple[int, int], mask: Tensor) -> Image.Image:
    """Draws a mask into the panel that was left for it.

    Args:
        visualizer: Says how.
        picture: From :func:`draw_panels`, with an empty mask.
        panel: Width and height of a panel.
        mask: Mask of the photo in any size, ``(h, w)``.

    Returns:
        The picture with the mask.
    """
    width, height = panel
    place = picture.width - width, picture.height - height
    smooth = F.interpolate(mask[None, None].float(), (height, width), mode="bilinear")[0, 0].round().bool()
    config = visualizer.overlay_fields_config["pred_mask"]
    empty = picture.crop((*place, *picture.size))
    complete = picture.convert("RGB")
    outline = visualize_pred_mask(smooth, **config)
    complete.paste(overlay_image(empty, outline, config["alpha"]).convert("RGB"), place)
    return complete
