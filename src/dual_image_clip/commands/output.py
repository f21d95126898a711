"""What a command says."""

import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Writes a line, to standard output unless another stream is named."""
    (stream or sys.stdout).write(text + "\n")
