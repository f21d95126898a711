"""What tests of commands need."""

import csv
import signal
from pathlib import Path


def hear_ctrl_c() -> None:
    """A process in the background of a shell does not hear it, nor do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
