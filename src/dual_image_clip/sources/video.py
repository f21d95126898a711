"""The frames of a video file."""

from collections.abc import Iterator
from pathlib import Path

import cv2

from dual_image_clip.photos import UnusableImageError, is_photo
from dual_image_clip.sources.capture import as_rgb, open_capture
from dual_image_clip.sources.pictures import Picture, SourceError, Tell


class Video:
    """The frames of a video file, from the first to the last.

    Args:
        path: The file.
        tell: Is told where the video ends before its last frame.
        every: Of how many frames one is given.

    Raises:
        SourceError: There is no such file, it has no frames, or it is a photo.
        ValueError: ``every`` is not positive.
    """

    def __init__(self, path: Path, tell: Tell, every: int = 1) -> None:
        if every < 1:
            msg = f"every must be at least 1, got {every}"
            raise ValueError(msg)
        if not path.is_file():
            msg = f"there is no folder, video or camera {path}"
            raise SourceError(msg)
        if is_photo(path.suffix):
            msg = f"{path} is a photo: name its folder, or use dual-image-clip predict"
            raise SourceError(msg)
        self._path, self._tell, self._every = path, tell, every
        capture = open_capture(str(path))
        readable = capture.grab()
        capture.release()
        if not readable:
            msg = f"{path} cannot be read as a video, or has no frames"
            raise SourceError(msg)

    def __iter__(self) -> Iterator[Picture]:
        """Gives the frames, ``a.mp4#1`` for the first."""
        capture = open_capture(str(self._path))
        try:
            number = 0
            while capture.grab():
                number += 1
                if (number - 1) % self._every:
                    continue
                name = f"{self._path}#{number}"
                seconds = round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 3)
                readable, frame = capture.retrieve()
                image = as_rgb(frame) if readable else UnusableImageError(name, "cannot be decoded")
                yield Picture(name, image, {"seconds": seconds}, f"{self._path.name}/{number:06}")
            expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        finally:
            capture.release()
        if number < expected:
            self._tell(f"{self._path} ends after {number} of {expected} frames: the others cannot be read")
