"""What a command has written into a folder, so that it replaces its own files and no others."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

RECORD_NAME = ".dual-image-clip.json"


class ForeignFileError(FileExistsError):
    """A file would be replaced that was not written here."""


def claim_files(folder: Path, files: Iterable[Path]) -> None:
    """Makes sure that nothing but files of an earlier run will be replaced, and notes those that are to be written.

    Args:
        folder: Folder of a run's results, which exists. The files are noted in its :data:`RECORD_NAME`.
        files: Files in it that are about to be written.

    Raises:
        ForeignFileError: One of them is there already, and no earlier run has noted it.
    """
    record = folder / RECORD_NAME
    own = _read(record)
    wanted = {path.relative_to(folder).as_posix() for path in files}
    for name in sorted(wanted - own):
        # Not `exists`, which does not see a dangling link.
        if os.path.lexists(folder / name):
            msg = f"{folder / name} is there already and was not written by an earlier run: choose another folder"
            raise ForeignFileError(msg)
    names = sorted(name for name in own | wanted if name in wanted or os.path.lexists(folder / name))
    record.write_text(json.dumps({"files": names}, indent=0), encoding="utf-8", errors="surrogateescape")


def _read(record: Path) -> set[str]:
    """Files that earlier runs have noted; none where the record is missing or damaged."""
    try:
        files = json.loads(record.read_text(encoding="utf-8", errors="surrogateescape"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()
