"""Checks of the numbers that users give."""


def require_at_least(least: float, **arguments: float) -> None:
    """Refuses numbers that are too small, and NaN.

    Args:
        least: Smallest number that is right.
        **arguments: Numbers by the names that users know.

    Raises:
        ValueError: One is smaller.
    """
    for name, value in arguments.items():
        if not value >= least:
            msg = f"{name} must be at least {least}, got {value}"
            raise ValueError(msg)


def require_positive(**arguments: float | None) -> None:
    """Refuses numbers that are not above zero.

    Args:
        **arguments: Numbers by the names that users know; ``None`` where there is none.

    Raises:
        ValueError: One is zero, less, or NaN.
    """
    for name, value in arguments.items():
        if value is not None and not value > 0:
            msg = f"{name} must be greater than 0, got {value}"
            raise ValueError(msg)
