"""A file of results, a line of JSON each, to which lines are only added, by one program at a time."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_BEGINNING = b'{"name": '


class JsonLines:
    """Results that are kept in a file across restarts.

    A line that a crash has cut off is removed; lines that cannot be written, such as to a full disk, wait, and the next
    one takes them along.

    Args:
        path: The file, which need not exist; its folder is made.
        tell: Is told that lines wait.

    Attributes:
        known: Name and time of each picture that has a score and a time.
        waiting: Lines that could not be written yet.

    Raises:
        ValueError: It is a file of another kind, or another program writes to it.
        OSError: It cannot be read, or nothing can be written beside it.
    """

    def __init__(self, path: Path, tell: Callable[[str], object]) -> None:
        self._path, self._tell = path, tell
        self.waiting: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), 0)
        try:
            self._lock.acquire()
        except Timeout as error:
            msg = f"another program is writing to {path}: choose another file"
            raise ValueError(msg) from error
        self.known: set[tuple[str, str]] = set()
        # Bytes of a last line without an end.
        self._cut_off = 0
        if path.exists():
            self._read()

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a line, or keeps it.

        Args:
            record: Of plain JSON types, its first key ``name``.
        """
        self.waiting.append(as_line(record))
        self.flush()

    def flush(self) -> None:
        """Writes the lines that wait, all or none."""
        if not self.waiting:
            return
        before = None
        try:
            with self._path.open("ab") as file:
                before = max(0, file.tell() - self._cut_off)
                file.truncate(before)
                file.write("".join(self.waiting).encode())
        except OSError as error:
            self._tell(f"{self._path}: {error.strerror}; {len(self.waiting)} result(s) wait")
            if before is not None:
                with suppress(OSError):
                    os.truncate(self._path, before)
        else:
            self.waiting = []
        if before is not None:
            self._cut_off = 0

    def _read(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                whole = line.endswith(b"\n")
                record = _parsed(line)
                is_part = not whole and _BEGINNING.startswith(line[: len(_BEGINNING)])
                if record is None and not is_part:
                    msg = f"{self._path} is there already and holds no results: move it away, or choose another file"
                    raise ValueError(msg)
                if not whole:
                    self._cut_off = len(line)
                elif record is not None and "score" in record and "time" in record:
                    self.known.add((record["name"], record["time"]))


def as_line(record: Mapping[str, Any]) -> str:
    """A line of JSON, of ASCII alone: names of files may hold bytes that are no UTF-8.

    Args:
        record: Of plain JSON types.
    """
    return json.dumps(record) + "\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The result of a line, or ``None`` where it has none."""
    with suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and "name" in record and ("score" in record or "error" in record):
            return record
    return None
