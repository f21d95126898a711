"""OpenCV's capture, without its own notes on standard error."""

import os
from typing import Any

# Read when the first video is opened; what is wrong is told in the words of this package.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np
from numpy.typing import NDArray

_PATIENCE = 10_000


def open_capture(source: str | int) -> Any:
    """Opens a video, a stream or a camera.

    Args:
        source: File, address, or number of a camera.

    Returns:
        The capture, which need not have been opened.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if isinstance(source, int):
        return cv2.VideoCapture(source)
    # Without a limit, a stream that has gone silent would be waited for half a minute at a time.
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def as_rgb(frame: NDArray) -> NDArray:
    """Turns a frame into RGB of type uint8, ``(H, W, 3)``.

    Args:
        frame: As OpenCV gives it, grey or BGR.
    """
    if frame.ndim == 2:  # noqa: PLR2004
        frame = frame[..., None]
    if frame.shape[2] == 1:
        frame = frame.repeat(3, axis=2)
    return np.ascontiguousarray(frame[..., ::-1])
