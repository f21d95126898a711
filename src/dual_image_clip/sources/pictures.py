"""A picture that has come."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from numpy.typing import NDArray

from dual_image_clip.photos import UnusableImageError

Tell = Callable[[str], object]
"""Told in one line what happens to a source, such as that it has gone."""


class SourceError(ValueError):
    """A source cannot be used, told in one line that names it."""


class Picture(NamedTuple):
    """A picture that has come.

    Attributes:
        name: What it is called in results.
        image: Its file, ``a.tif#2`` for a second page, or RGB of type uint8, ``(H, W, 3)``; or why there is none.
        facts: What else is known of it: ``time`` at which it was taken, or ``seconds`` into the video.
        place: Relative path without suffix, unlike that of any other picture of the source, for a file made of it.
    """

    name: str
    image: str | NDArray | UnusableImageError
    facts: dict[str, Any]
    place: str


def as_time(seconds: float) -> str:
    """A time as text, such as ``"2026-11-29T07:25:43.123456+00:00"``.

    Args:
        seconds: Since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
