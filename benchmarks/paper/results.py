"""The file that a benchmark's jobs write their results to, one JSON line a job, and that survives ``kill -9``.

The first line is a header that says which benchmark the rows belong to. Every row is written by one call and forced to
the disk under a lock, so several processes may append at once; a line that was torn nevertheless is cut off.
"""

import difflib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

METRICS = ("pixel_AUROC", "pixel_F1Max", "pixel_AUPRO", "image_AUROC", "image_F1Max", "image_AUPR")
HEADER_START = b'{"fingerprint": '


@dataclass(frozen=True)
class Row:
    """The result of one job.

    Attributes:
        dataset: Name of the data set, such as "MVTecAD".
        category: Its category.
        setting: Canonical key of the setting's parameters.
        seed: The seed.
        metrics: Fractions in 0..1 by their names in :data:`METRICS`; one that cannot be computed is missing.
        seconds: Wall-clock time.
        error: Why the job failed; then there are no metrics.
    """

    dataset: str
    category: str
    setting: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str | None = None

    @property
    def job(self) -> tuple[str, str, str, int]:
        """What was run: data set, category, setting and seed."""
        return self.dataset, self.category, self.setting, self.seed


class ResultsMismatchError(ValueError):
    """A results file belongs to another benchmark, or is something else altogether."""


class ResultsFile:
    """Rows of one benchmark on the disk.

    Args:
        path: The file; it and its folder are made where they do not exist.
        fingerprint: What must be equal for rows to be comparable.
        description: The same in lines that people can read; shown where fingerprints differ.

    Raises:
        ResultsMismatchError: If the file has another fingerprint or is no results file; it is left as it is.
    """

    def __init__(self, path: Path, fingerprint: str, description: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with _locked(path) as file:
            header = _read_header(path, file.readall())
            if header is None:
                file.truncate(0)
                _write_line(file, {"fingerprint": fingerprint, "description": description})
            elif header["fingerprint"] != fingerprint:
                raise ResultsMismatchError(_explain_mismatch(path, header, fingerprint, description))
            else:
                _cut_torn_lines(file)

    def rows(self) -> list[Row]:
        """Reads the rows; of several for the same job, the last one counts.

        Returns:
            The rows, in the order in which their jobs were first written.

        Raises:
            ValueError: If a line in the middle of the file is not a row.
        """
        with _locked(self.path) as file:
            content = file.readall()
        lines = content[: _sound_length(content)].splitlines()[1:]
        rows = (_parse_row(self.path, number, line) for number, line in enumerate(lines, start=2))
        return list({row.job: row for row in rows}.values())

    def append(self, row: Row) -> None:
        """Adds a row; when this returns, it is on the disk.

        Args:
            row: The row.

        Raises:
            ValueError: If a number is not finite.
            OSError: If the disk is full, or the file has been deleted.
        """
        with _locked(self.path) as file:
            # Another process may have been killed since this one opened the file.
            _cut_torn_lines(file)
            _write_line(file, asdict(row))

    def done(self) -> set[tuple[str, str, str, int]]:
        """Jobs that need not run again: data set, category, setting and seed of rows without an error."""
        return {row.job for row in self.rows() if row.error is None}


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    # Unbuffered, a write is one call of the system; closing gives the lock back, and so does dying.
    with FileIO(path, "rb+", opener=lambda name, flags: os.open(name, flags | os.O_APPEND)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _write_line(file: FileIO, content: dict[str, Any]) -> None:
    line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    if file.write(line) != len(line):
        raise OSError(f"only a part of a line could be written to {file.name!r}; is the disk full?")
    os.fsync(file.fileno())


def _cut_torn_lines(file: FileIO) -> None:
    file.seek(0)
    content = file.readall()
    length = _sound_length(content)
    if length < len(content):
        file.truncate(length)


def _sound_length(content: bytes) -> int:
    """Length up to the end of the last line that is complete and JSON."""
    end = content.rfind(b"\n") + 1
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if _is_json(content[start:end]):
            break
        end = start
    return end


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _read_header(path: Path, content: bytes) -> dict[str, str] | None:
    """The header, or ``None`` for a file that is empty or whose header was torn."""
    # After a power cut, a file may have its length, but zeros for its content.
    if not content.strip(b"\0"):
        return None
    first, newline, _ = content.partition(b"\n")
    is_ours = first.startswith(HEADER_START) and _is_json(first) if newline else _may_begin(first)
    if not is_ours:
        raise ResultsMismatchError(f"{path} is not a results file of a benchmark; choose another output=…")
    return json.loads(first) if newline else None


def _may_begin(line: bytes) -> bool:
    return line.startswith(HEADER_START) or HEADER_START.startswith(line)


def _explain_mismatch(path: Path, header: dict[str, str], fingerprint: str, description: str) -> str:
    lines = difflib.ndiff(header["description"].splitlines(), description.splitlines())
    changes = [line for line in lines if line.startswith(("- ", "+ "))]
    if not changes:
        changes = [f"- fingerprint: {header['fingerprint']}", f"+ fingerprint: {fingerprint}"]
    return "\n".join(
        [
            f"{path} holds the results of another benchmark; - is what it says, + what is to run now:",
            *(f"  {line}" for line in changes),
            "Choose another output=… or delete the file.",
        ]
    )


def _parse_row(path: Path, number: int, line: bytes) -> Row:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, line {number}, is not a row of results: {error}") from error
