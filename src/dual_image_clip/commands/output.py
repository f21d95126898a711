"""What a command says: its result on standard output, everything else through rich on standard error."""

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text


def say(text: str) -> None:
    """Writes a line of the result to standard output."""
    sys.stdout.write(text + "\n")


def tell(text: str, style: str = "") -> None:
    """Writes a message to standard error, as it is: neither wrapped nor searched for markup.

    Args:
        text: Message.
        style: Of rich's, where a terminal shows it.
    """
    # Where a progress bar is drawn, rich has put itself in the place of standard error, and keeps the two apart.
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(text, style))


def add_json(command: argparse.ArgumentParser) -> None:
    """Adds the choice of a result for machines."""
    command.add_argument("--json", action="store_true", help="print the result as one JSON object, for programs")


def give_result(lines: Iterable[str], record: Mapping[str, Any], as_json: bool) -> None:
    """Writes the result of a command, for people or for machines.

    Args:
        lines: For people.
        record: The same for machines, of plain JSON types.
        as_json: For whom.
    """
    if as_json:
        # Names of files may hold bytes that are no UTF-8: they are escaped, as everything but ASCII.
        say(json.dumps(record))
        return
    for line in lines:
        say(line)


class Messages(logging.Handler):
    """Tells log messages of this package and of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tells one."""
        try:
            tell(self.format(record))
        except Exception:
            self.handleError(record)
