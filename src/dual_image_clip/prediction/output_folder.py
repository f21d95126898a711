"""A folder of results, in which files of earlier runs are replaced and no others."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from filelock import BaseFileLock, FileLock, Timeout

from dual_image_clip.photos import RECORD_NAME

LOCK_NAME = ".dual-image-clip.lock"
"""Name of the file by which a run keeps others out of its folder; the system frees it when the process ends."""

# What a name begins and ends with; none of a photo.
_UNFINISHED = ".dual-image-clip-", ".part"
# Seconds. Who only looks whether the folder is free holds it for a moment, too.
_PATIENCE = 1
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP)


class OutputError(RuntimeError):
    """Results cannot be written, told in one line that names the file. No ``OSError``, which a photo could cause."""


class OutputFolder:
    """Writes the results of a run into a folder, to which no other run writes in the meantime.

    The folder's :data:`RECORD_NAME` has a line for each file, its name and the digest of what was written, before the
    file is in its place. So a file is of this package only as long as nobody has changed or replaced it.

    Args:
        folder: The folder, which need not exist.

    Attributes:
        folder: See above.
        failures: Files that could not be written, each with the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[str] = []
        self._lock: BaseFileLock | None = None
        self._digests: dict[str, set[str]] = {}

    def require_own(self, names: Iterable[str]) -> None:
        """Tells before a run whether it could :meth:`claim` its files.

        Args:
            names: Files that are about to be written, relative to the folder.

        Raises:
            OutputError: One of them is there already and is not what an earlier run has written, the folder is
                read-only, or another run is writing to it.
        """
        existing = next(each for each in (self.folder, *self.folder.absolute().parents) if each.exists())
        if not os.access(existing, os.W_OK):
            msg = f"cannot write to {existing}: it is read-only"
            raise OutputError(msg)
        with _writing_to(self.folder):
            if (self.folder / LOCK_NAME).exists():
                self._take_lock()
                self._free_lock()
            self._look_for_others(names)

    def claim(self, names: Iterable[str], main: bool = True) -> None:
        """Begins a run: locks the folder, and removes what a killed run has left unfinished.

        Args:
            names: Files that are about to be written, relative to the folder.
            main: Whether to lock and to clean; of several processes with one folder, one does.

        Raises:
            OutputError: As for :meth:`require_own`, or nothing can be written.
        """
        names = set(names)
        try:
            with _writing_to(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                if main:
                    self._take_lock()
                self._look_for_others(names)
                for name in names:
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                if main:
                    self._clean(names)
        except OutputError:
            self._free_lock()
            raise

    @contextmanager
    def claimed(self, names: Iterable[str]) -> Iterator[Path]:
        """Claims files, and frees the folder in the end.

        Args:
            names: As for :meth:`claim`.

        Yields:
            An empty folder beside them, for what is not finished.

        Raises:
            OutputError: As for :meth:`claim`.
        """
        self.claim(names)
        try:
            with TemporaryDirectory(prefix=_UNFINISHED[0], suffix=_UNFINISHED[1], dir=self.folder) as unfinished:
                yield Path(unfinished)
        finally:
            self.release()

    @contextmanager
    def replacing(self, names: Sequence[str]) -> Iterator[Path]:
        """Replaces files, whoever has written them; those of an earlier run still count as such.

        Args:
            names: Files that are there, relative to the folder, in the order in which they are replaced.

        Yields:
            An empty folder beside them, for the files that take their place.

        Raises:
            OutputError: Another run is writing to the folder, or nothing can be written.
        """
        try:
            with _writing_to(self.folder):
                if (self.folder / LOCK_NAME).exists():
                    self._take_lock()
                noted = self._noted()
                own = {name for name in names if _digest(self.folder / name) in noted.get(name, ())}
                with TemporaryDirectory(prefix=_UNFINISHED[0], suffix=_UNFINISHED[1], dir=self.folder) as unfinished:
                    yield Path(unfinished)
                    for name in names:
                        if name in own:
                            self._note(name, _digest(Path(unfinished) / name))
                        (Path(unfinished) / name).replace(self.folder / name)
        finally:
            self._free_lock()

    def write(self, name: str, write: Callable[[Path], object]) -> bool:
        """Writes a file as a whole or not at all; one that cannot be written is added to ``failures``.

        Args:
            name: File, relative to the folder.
            write: Writes it at the path that it is given.

        Returns:
            Whether it was written.
        """
        path = self.folder / name
        unfinished = _beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(unfinished)
            self._require_own(name)
            self._note(name, _digest(unfinished))
            unfinished.replace(path)
        except OutputError as error:
            self.failures.append(str(error))
        except OSError as error:
            self.failures.append(f"{path}: {error.strerror or error}")
        else:
            return True
        finally:
            # It may be gone, and where nothing can be written, nothing can be removed, either.
            with suppress(OSError):
                unfinished.unlink()
        return False

    def release(self) -> None:
        """Ends a run: lets others write here, and leaves no record of nothing."""
        record = self.folder / RECORD_NAME
        with suppress(OSError):
            if self._lock is not None and record.stat().st_size == 0:
                record.unlink()
        self._free_lock()

    def _take_lock(self) -> None:
        # One for all of this process: list and heatmaps may share a folder.
        lock = FileLock(self.folder.resolve() / LOCK_NAME, _PATIENCE, thread_local=False, is_singleton=True)
        try:
            lock.acquire()
        except Timeout as error:
            msg = f"another run is writing to {self.folder}: wait until it has ended, or choose another folder"
            raise OutputError(msg) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
        self._lock = lock

    def _free_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _look_for_others(self, names: Iterable[str]) -> None:
        self._digests = self._noted()
        for name in sorted(names):
            self._require_own(name)

    def _require_own(self, name: str) -> None:
        path = self.folder / name
        # Not `exists`, which does not see a dangling link.
        if not os.path.lexists(path):
            return
        noted = self._digests.get(name)
        if noted and path.is_file() and (digest := _digest(path)) in noted:
            self._digests[name] = {digest}
            return
        what = "was changed after an earlier run had written it" if noted else "was not written by an earlier run"
        msg = f"{path} is there already and {what}: move it away, or choose another folder"
        raise OutputError(msg)

    def _clean(self, names: Iterable[str]) -> None:
        """Removes unfinished files, and lines of files that are no longer there."""
        for folder in {self.folder, *((self.folder / name).parent for name in (*names, *self._digests))}:
            for unfinished in folder.glob("*".join(_UNFINISHED)):
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        present = {name: noted for name, noted in self._digests.items() if os.path.lexists(self.folder / name)}
        lines = (_line(name, digest) for name, noted in sorted(present.items()) for digest in sorted(noted))
        unfinished = _beside(self.folder / RECORD_NAME)
        unfinished.write_text("".join(lines), encoding="utf-8")
        unfinished.replace(self.folder / RECORD_NAME)

    def _note(self, name: str, digest: str) -> None:
        with (self.folder / RECORD_NAME).open("a", encoding="utf-8") as record:
            record.write(_line(name, digest))
        self._digests.setdefault(name, set()).add(digest)

    def _noted(self) -> dict[str, set[str]]:
        """Digests of what earlier runs have noted, by name; without lines that are damaged."""
        noted: dict[str, set[str]] = {}
        with suppress(OSError, UnicodeDecodeError):
            for line in (self.folder / RECORD_NAME).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, TypeError):
                    name, digest = json.loads(line)
                    noted.setdefault(str(name), set()).add(str(digest))
        return noted


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"cannot write to {error.filename or folder}: {error.strerror or error}"
        raise OutputError(msg) from error


def _beside(path: Path) -> Path:
    return path.with_name(uuid4().hex.join(_UNFINISHED))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(name: str, digest: str) -> str:
    # The first break ends what a full disk has cut off.
    return f"\n{json.dumps([name, digest])}\n"
