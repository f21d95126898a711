"""anomalib's command while it runs this package: a mistake is told in one line.

Of its own, the command answers every error with a boxed traceback of dozens of lines, and hides what a model's
constructor says in what jsonargparse says about types.
"""

import dis
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from traceback import walk_tb
from types import FrameType
from typing import Any

from dual_image_clip.callers import called_from

DEBUG = "DUAL_IMAGE_CLIP_DEBUG"
"""Environment variable that shows tracebacks."""

_PACKAGE = __name__.split(".", maxsplit=1)[0]
# With this model, what these say about photos and data sets is as good as what is said here.
_WORDED = (_PACKAGE, "anomalib.data")
_COMMAND = "anomalib.cli.cli"


def run(main: Callable[[], None]) -> None:
    """Runs the command.

    Args:
        main: The command itself.

    Raises:
        SystemExit: A mistake of the user's has ended a run of this package's; it is told in one line. With
            :data:`DEBUG` set, and for any other error, the error itself is raised.
    """
    try:
        main()
    except Exception as error:
        mistake = None if os.environ.get(DEBUG) else _mistake_in(error)
        if mistake is None:
            raise
        sys.exit(f"anomalib: error: {one_line(mistake)} ({DEBUG}=1 shows where)")


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())


def is_running() -> bool:
    """Whether this is called by anomalib's command."""
    return called_from(_COMMAND, "main")


def run_this_package(frames: Iterable[FrameType]) -> bool:
    """Whether calls have to do with a model of this package's, as their argument, their object or its model."""
    for frame in frames:
        owner = frame.f_locals.get("self")
        models = frame.f_locals.get("model"), owner, getattr(owner, "__dict__", {}).get("model")
        if any(_is_model_of_this_package(each) for each in models):
            return True
    return False


def _is_model_of_this_package(each: Any) -> bool:
    homes = {base.__module__ for base in type(each).__mro__}
    return f"{_PACKAGE}.lightning_model" in homes


def _mistake_in(error: Exception) -> Exception | None:
    """What a user can put right: an error that was raised on purpose, with words for users."""
    known = _WORDED if run_this_package(frame for frame, _ in walk_tb(error.__traceback__)) else (_PACKAGE,)
    return next((each for each in _gathered(error) if _is_worded(each, known)), None)


def _gathered(error: Exception) -> Iterator[Exception]:
    """An error, and those that it stands for: jsonargparse tries the types of an argument and keeps all errors."""
    yield error
    *_, (innermost, _) = walk_tb(error.__traceback__)
    for values in innermost.f_locals.values():
        if isinstance(values, list):
            for each in values:
                if isinstance(each, Exception) and each.__traceback__ is not None:
                    yield from _gathered(each)


def _is_worded(error: Exception, packages: tuple[str, ...]) -> bool:
    """Whether code of these packages has raised an error, rather than run into it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not _module_of(trace.tb_frame).startswith(packages):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _module_of(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
