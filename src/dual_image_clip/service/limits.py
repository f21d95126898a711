"""What the service takes from its clients."""

from dataclasses import dataclass, fields

MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What the service takes; more is refused with a status of its own.

    Attributes:
        image_bytes: Of one image (413).
        request_bytes: Of a request, whether it says so or not (413).
        pixels: Of one image, looked at before it is decoded (413).
        images: Of one request (413).
        waiting: Requests at the same time, the one that is being scored among them (429).
        patience: Seconds without a byte after which a request is given up (408).

    Raises:
        ValueError: One of them is not positive.
    """

    image_bytes: int = 25 * MEGA
    request_bytes: int = 100 * MEGA
    pixels: int = 50 * MEGA
    images: int = 32
    waiting: int = 32
    patience: float = 30.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                msg = f"{each.name} must be positive, got {getattr(self, each.name)}"
                raise ValueError(msg)
