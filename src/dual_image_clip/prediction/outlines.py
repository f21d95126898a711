"""Defects drawn onto a picture: an outline, and a box with its number, for each."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dual_image_clip.defects import Defect

_RED, _WHITE = (215, 25, 28), (255, 255, 255)
# Of a picture's short side: the width of a line, which has at least a pixel, and the height of a number.
_LINE, _NUMBER, _LEAST_NUMBER = 1 / 320, 1 / 22, 10
# OpenCV's fixed point: sixteenths of a pixel.
_SHIFT = 4
# Lines between box and outline.
_GAP = 3


def draw_outlines(picture: Image.Image, defects: Sequence[Defect], size: tuple[int, int]) -> Image.Image:
    """Draws the outline of each defect, and its box with its number, from 1.

    Outlines are red within white, so that they are seen on any heatmap and any photo.

    Args:
        picture: The photo in any size, or something of its shape, such as its anomaly map; it stays as it is.
        defects: Defects of the photo.
        size: Height and width of the photo, in whose pixels they are given.

    Returns:
        RGB picture of the same size.
    """
    drawn = picture.convert("RGB")
    if not defects:
        return drawn.copy()
    canvas = np.array(drawn)
    line = max(1, round(_LINE * min(picture.size)))
    scale = np.array([picture.width / size[1], picture.height / size[0]])
    boxes = [_box(defect, scale, picture.size, _GAP * line) for defect in defects]
    for left, top, right, bottom in boxes:
        cv2.rectangle(canvas, (left, top), (right, bottom), _RED, line)
    # Corners lie on edges of pixels, while a line is drawn from centre to centre.
    outlines = [
        np.round((np.array(defect.contour) * scale - 0.5) * 2**_SHIFT).astype(np.int32)[:, None] for defect in defects
    ]
    cv2.polylines(canvas, outlines, True, _WHITE, 3 * line, cv2.LINE_AA, _SHIFT)
    cv2.polylines(canvas, outlines, True, _RED, line, cv2.LINE_AA, _SHIFT)
    drawn = Image.fromarray(canvas)
    _draw_numbers(drawn, boxes)
    return drawn


def _box(defect: Defect, scale: np.ndarray, picture: tuple[int, int], gap: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box a little larger than a defect, within the picture of a width and height."""
    left, top, width, height = defect.box
    corners = np.array([[left, top], [left + width, top + height]]) * scale + [[-gap], [gap]]
    (left, top), (right, bottom) = np.round(corners).astype(int).clip(0, np.array(picture) - 1).tolist()
    return left, top, right, bottom


def _draw_numbers(picture: Image.Image, boxes: Sequence[tuple[int, int, int, int]]) -> None:
    """Writes a number above each box, or inside where there is no room above."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(_LEAST_NUMBER, round(_NUMBER * min(picture.size))))
    for number, (left, top, _, _) in enumerate(boxes, start=1):
        _, _, width, height = draw.textbbox((0, 0), str(number), font=font)
        x, y = min(left, picture.width - int(width) - 4), max(0, top - int(height) - 4)
        draw.rectangle((x, y, x + width + 3, y + height + 3), fill=_RED)
        draw.text((x + 2, y + 1), str(number), fill=_WHITE, font=font)
