"""A folder of results, in which files of earlier runs are replaced and no others."""

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import uuid4

from dual_image_clip.photos import RECORD_NAME


class OutputError(RuntimeError):
    """Results cannot be written, told in one line that names the file. No ``OSError``, which a photo could cause."""


class OutputFolder:
    """Writes the results of a run into a folder; which files are of this package is noted in its :data:`RECORD_NAME`.

    Args:
        folder: The folder, which need not exist.

    Attributes:
        folder: See above.
        failures: Files that could not be written, each with the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[str] = []
        self._claimed: set[str] = set()
        self._replaceable: set[str] = set()

    def require_own(self, names: Iterable[str]) -> None:
        """Refuses to write files where others are.

        Args:
            names: Files that are about to be written, relative to the folder.

        Raises:
            OutputError: One of them is there already, and no earlier run has noted it.
        """
        for name in sorted(set(names) - self._noted()):
            # Not `exists`, which does not see a dangling link.
            if os.path.lexists(self.folder / name):
                msg = (
                    f"{self.folder / name} is there already and was not written by an earlier run that has noted it: "
                    "move it away, or choose another folder"
                )
                raise OutputError(msg)

    def claim(self, names: Iterable[str], note: bool = True) -> None:
        """Makes the folders of files that are about to be written, and notes the files, before any of them is there.

        Args:
            names: Files, relative to the folder.
            note: Whether to write the record; of several processes with the same files, one does.

        Raises:
            OutputError: One of the files is there already and no earlier run has noted it, or nothing can be written.
        """
        names = set(names)
        self.require_own(names)
        noted = self._noted()
        try:
            for folder in {self.folder, *((self.folder / name).parent for name in names)}:
                folder.mkdir(parents=True, exist_ok=True)
            if note:
                self._note(names | self._present(noted))
        except OSError as error:
            msg = f"cannot write to {error.filename or self.folder}: {error.strerror or error}"
            raise OutputError(msg) from error
        self._claimed |= names
        self._replaceable |= self._present(names)

    def write(self, name: str, write: Callable[[Path], None]) -> bool:
        """Writes a file, claimed or not, as a whole or not at all; one that cannot be written is added to ``failures``.

        Args:
            name: File, relative to the folder.
            write: Writes it at the path that it is given, which has the same suffix.

        Returns:
            Whether it was written.
        """
        path = self.folder / name
        unfinished = path.with_name(f".{uuid4().hex}{path.suffix}")
        try:
            if name not in self._claimed:
                self.claim([name])
            write(unfinished)
            if name not in self._replaceable and os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, "is there already and was not written by this run")
            unfinished.replace(path)
        except OutputError as error:
            self.failures.append(str(error))
            return False
        except OSError as error:
            self.failures.append(f"{path}: {error.strerror or error}")
            return False
        finally:
            unfinished.unlink(missing_ok=True)
        self._replaceable.add(name)
        return True

    def forget_unwritten(self) -> None:
        """Takes files that are not there from the record, so that later ones of their names are not taken for own."""
        if (self.folder / RECORD_NAME).exists():
            try:
                self._note(self._present(self._noted()))
            except OSError as error:
                self.failures.append(f"{self.folder / RECORD_NAME}: {error.strerror or error}")

    def _present(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if os.path.lexists(self.folder / name)}

    def _noted(self) -> set[str]:
        """Files that earlier runs have noted; none where the record is missing or damaged."""
        try:
            text = (self.folder / RECORD_NAME).read_text(encoding="utf-8", errors="surrogateescape")
            files = json.loads(text)["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()

    def _note(self, names: set[str]) -> None:
        if not names:
            (self.folder / RECORD_NAME).unlink(missing_ok=True)
            return
        text = json.dumps({"files": sorted(names)}, indent=0)
        unfinished = self.folder / f".{uuid4().hex}.json"
        try:
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
            unfinished.replace(self.folder / RECORD_NAME)
        finally:
            unfinished.unlink(missing_ok=True)
