"""Who has started a run, where a trainer does not tell."""

from collections.abc import Iterator
from inspect import currentframe
from traceback import walk_stack
from types import FrameType


def calls(module: str, function: str | None = None) -> Iterator[FrameType]:
    """Calls that are under way, the innermost first.

    Args:
        module: Name of a module.
        function: Name of a function of it, or ``None`` for all that it has.

    Yields:
        Their frames.
    """
    for frame, _ in walk_stack(currentframe()):
        if frame.f_globals.get("__name__") == module and function in {None, frame.f_code.co_name}:
            yield frame


def called_from(module: str, function: str | None = None) -> bool:
    """Whether such a call is under way; arguments as for :func:`calls`."""
    return any(calls(module, function))
