"""The newest frame of a camera or of a stream, whenever one is asked for."""

import re
import time
from collections.abc import Iterator
from threading import Condition, Thread
from typing import Any

from numpy.typing import NDArray

from dual_image_clip.sources.capture import as_rgb, open_capture
from dual_image_clip.sources.pictures import Picture, SourceError, Tell, as_time

# Seconds before a camera that does not answer is asked again, doubled each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRETS = re.compile(r"(?<=://)[^/?#]*@")


def is_camera(source: str) -> bool:
    """Whether a source is a camera's number or a stream's address, and not a path.

    Args:
        source: Such as ``"0"`` or ``"rtsp://line-3/camera"``.
    """
    return source.isdecimal() or _ADDRESS.match(source) is not None


class Camera:
    """Frames of a camera or a stream, always the newest: those that come while one is being scored are dropped.

    A camera that goes away is asked for again, at first after a second, then more and more seldom.

    Args:
        source: Number of a camera, or address of a stream.
        tell: Is told when the camera goes away and when it is back.

    Raises:
        SourceError: No frame could be read.
    """

    def __init__(self, source: str, tell: Tell) -> None:
        self._source: str | int = int(source) if source.isdecimal() else source
        # An address may hold a password, which is nothing for a log.
        self._name = f"camera {source}" if source.isdecimal() else _SECRETS.sub("", source)
        self._tell = tell
        self._come = Condition()
        self._newest: tuple[float, NDArray] | None = None
        self._ended = False
        capture = open_capture(self._source)
        if not self._read(capture):
            capture.release()
            msg = f"{self._name} cannot be opened, or sends no frames"
            raise SourceError(msg)
        Thread(target=self._keep_reading, args=(capture,), daemon=True).start()

    def __iter__(self) -> Iterator[Picture]:
        """Gives frames, each as soon as there is one that was not given before."""
        try:
            while True:
                with self._come:
                    self._come.wait_for(lambda: self._newest is not None)
                    (taken, frame), self._newest = self._newest, None  # type: ignore[misc]
                moment = as_time(taken)
                day, _, hour = moment.partition("+")[0].partition("T")
                yield Picture(self._name, as_rgb(frame), {"time": moment}, f"{day}/{hour.replace(':', '-')}")
        finally:
            self._ended = True

    def _keep_reading(self, capture: Any) -> None:
        while not self._ended:
            if not self._read(capture):
                self._tell(f"{self._name} does not answer any more: trying again")
                capture.release()
                capture = self._reopen()
        capture.release()

    def _reopen(self) -> Any:
        pause = _FIRST_PAUSE
        while True:
            time.sleep(pause)
            capture = open_capture(self._source)
            if self._read(capture):
                self._tell(f"{self._name} is back")
                return capture
            if self._ended:
                return capture
            capture.release()
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self, capture: Any) -> bool:
        readable, frame = capture.read()
        if readable:
            with self._come:
                self._newest = time.time(), frame
                self._come.notify()
        return readable
