"""The file that a benchmark keeps its rows in: an SQLite database, which several processes and ``kill -9`` may meet."""

import difflib
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

METRICS = ("pixel_AUROC", "pixel_F1Max", "pixel_AUPRO", "image_AUROC", "image_F1Max", "image_AUPR")
KEY = ("dataset", "category", "setting", "seed")
COLUMNS = (*KEY, *METRICS, "seconds", "error")

_SCHEMA = (
    "CREATE TABLE run (description TEXT NOT NULL)",
    f"CREATE TABLE rows ({', '.join(COLUMNS)}, PRIMARY KEY ({', '.join(KEY)}))",
    "CREATE TABLE times (seconds, seconds_alone)",
)
_TABLES = {"run", "rows", "times"}
_PATIENCE = 60
"""Seconds to wait for other processes that write."""


@dataclass(frozen=True)
class Row:
    """How well a setting does on a category with a seed.

    Attributes:
        dataset: Name of the data set, such as "MVTecAD".
        category: Its category.
        setting: Canonical key of the setting's parameters.
        seed: The seed.
        metrics: Fractions in 0..1 by their names in :data:`METRICS`; one that cannot be computed is missing.
        seconds: Wall-clock time.
        error: Why it failed; then there are no metrics.
    """

    dataset: str
    category: str
    setting: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What was run: data set, category, setting and seed."""
        return self.dataset, self.category, self.setting, self.seed


class Spent(NamedTuple):
    """What a job took.

    Attributes:
        seconds: Seconds in all.
        seconds_alone: What they would have been with every setting run alone: its own reading, tower passes and text,
            shared by its seeds only. A sum of measured parts.
    """

    seconds: float
    seconds_alone: float


class ResultsMismatchError(ValueError):
    """A results file belongs to another benchmark, or is something else altogether."""


class ResultsFile:
    """Rows of one benchmark on the disk. What has been added is there, whatever happens to the process afterwards.

    Args:
        path: The file; it and its folder are made where they do not exist.
        description: All that must be equal for rows to be comparable, in lines that people can read.

    Raises:
        ResultsMismatchError: The file has another description or is no results file; it is left as it is.
        OSError: The file cannot be made or written.
    """

    def __init__(self, path: Path, description: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with self._transaction() as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute("INSERT INTO run VALUES (?)", [description])
            elif tables != _TABLES:
                raise ResultsMismatchError(_not_ours(path))
            else:
                ((there,),) = database.execute("SELECT description FROM run")
                if there != description:
                    raise ResultsMismatchError(_explain_mismatch(path, there, description))

    def rows(self) -> pd.DataFrame:
        """Reads the rows, in the order in which they were added.

        Returns:
            A line for each row with the columns :data:`COLUMNS`; a metric that is missing is NaN.

        Raises:
            OSError: The file cannot be read.
        """
        rows = self._read("SELECT * FROM rows ORDER BY rowid")
        return rows.astype({"seed": int, **dict.fromkeys(METRICS, float)})

    def add(self, row: Row) -> None:
        """Adds a row, in the place of an earlier one of the same key.

        Args:
            row: The row.

        Raises:
            ValueError: A number is not finite.
            OSError: The disk is full, or the file has been deleted.
        """
        if not all(map(math.isfinite, (*row.metrics.values(), row.seconds))):
            msg = f"a figure of {row} is not finite"
            raise ValueError(msg)
        values = [*row.key, *map(row.metrics.get, METRICS), row.seconds, row.error]
        with self._transaction() as database:
            database.execute(f"INSERT OR REPLACE INTO rows VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608

    def done(self) -> set[tuple[str, str, str, int]]:
        """Keys of the rows without an error, which need not be run again."""
        rows = self.rows()
        return set(rows.loc[rows.error.isna(), list(KEY)].itertuples(index=False, name=None))

    def add_spent(self, spent: Spent) -> None:
        """Keeps what a job took.

        Args:
            spent: Its seconds.

        Raises:
            OSError: The disk is full, or the file has been deleted.
        """
        with self._transaction() as database:
            database.execute("INSERT INTO times VALUES (?, ?)", spent)

    def spent(self) -> pd.DataFrame:
        """What all jobs of the benchmark took, also those of earlier calls: a line a job, with the fields of Spent."""
        return self._read("SELECT * FROM times")

    def _read(self, query: str) -> pd.DataFrame:
        with self._transaction() as database:
            return pd.read_sql_query(query, database)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Not made anew where it has been deleted: it would lack its tables.
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(address, _PATIENCE, isolation_level=None, uri=True)) as database:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            msg = f"{self.path}: {error}"
            raise OSError(msg) from error
        except sqlite3.DatabaseError as error:
            raise ResultsMismatchError(_not_ours(self.path)) from error


def _not_ours(path: Path) -> str:
    return f"{path} is not a results file of a benchmark; choose another output=…"


def _explain_mismatch(path: Path, there: str, description: str) -> str:
    lines = difflib.ndiff(there.splitlines(), description.splitlines())
    return "\n".join(
        [
            f"{path} holds the results of another benchmark; - is what it says, + what is to run now:",
            *(f"  {line}" for line in lines if line.startswith(("- ", "+ "))),
            "Choose another output=… or delete the file.",
        ]
    )
