"""What tests of commands need."""

import csv
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hear_ctrl_c() -> None:
    """A process in the background of a shell does not hear it, nor do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Every larger file fails to be written, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
