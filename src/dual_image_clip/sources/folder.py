"""Photos that appear in a folder and its subfolders.

The system's notices make it quick; looking again every few seconds makes it certain: a network drive sends no notice of
what another machine writes, and a full queue loses some.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from watchfiles import watch

from dual_image_clip.photos import RECORD_NAME, PhotoList, find_photos, is_photo_name, photo_files
from dual_image_clip.sources.pictures import Picture, SourceError, Tell, as_time

# Seconds.
_SETTLED = 0.5
_REST = 2.0
_AWAY = 0.5
_TICK = 0.1
# Of a core, looking at a folder of very many files takes at most a fifth.
_SHARE = 4


class _Stamp(NamedTuple):
    """By which a photo is known to be the one that was scored: time of its last change in nanoseconds, and size."""

    changed: int
    size: int


class Folder:
    """The photos of a folder, and those that appear in it, each once it is complete.

    A file is complete when it has not changed for half a second, or at once where it was given its name after it had
    been written. A photo that changes afterwards is a new one; the same at the same place is not given twice, also
    where the folder, such as a network drive, goes away and comes back. Memory grows with the photos that the folder
    holds, not with those that it has held.

    Args:
        folder: The folder.
        tell: Is told when the folder goes away and when it is back.
        once: Whether to end when all photos that are there at the beginning were given.
        known: Names and times of pictures that are not wanted again.

    Raises:
        SourceError: There is no such folder.
    """

    def __init__(self, folder: Path, tell: Tell, once: bool = False, known: Set[tuple[str, str]] = frozenset()) -> None:
        if not folder.is_dir():
            msg = f"there is no folder {folder}"
            raise SourceError(msg)
        self._folder = folder.resolve()
        self._tell = tell
        self._once = once
        self._known = known
        self._given: dict[Path, _Stamp] = {}
        self._waiting: dict[Path, tuple[_Stamp, float]] = {}
        self._told: set[str] = set()
        self._is_searched = True

    def __iter__(self) -> Iterator[Picture]:
        """Gives the pictures, the oldest of a look first."""
        wanted: set[Path] | None = None
        for found in self._looks():
            if wanted is None:
                wanted = set(found)
            ready = [path for path in self._complete(found) if path in wanted or not self._once]
            for path in sorted(ready, key=lambda path: (found[path].st_mtime_ns, path)):
                yield from self._pictures(path, _stamp(found[path]))
            if self._once and wanted.isdisjoint(self._waiting):
                return

    def _looks(self) -> Iterator[dict[Path, os.stat_result]]:
        """What is in the folder, first everything, then whatever may be new."""
        before = None
        while (identity := self._wait()) is not None:
            if before not in (None, identity):
                self._tell(f"{self._folder} is another folder than before, as when a drive comes or goes: watching it")
            before = identity
            soon = due = 0.0
            has_moved = False
            for noticed in _notices(self._folder):
                # A folder that was moved here brings files of which there is no notice.
                has_moved = has_moved or any(path.is_dir() for path in noticed)
                begun = time.monotonic()
                is_due = begun >= (soon if has_moved else due)
                if not (is_due or noticed or self._waiting):
                    continue
                found = self._everything() if is_due else self._of(noticed | self._waiting.keys())
                if not self._is_still(identity):
                    break
                pause = _SHARE * (time.monotonic() - begun)
                if is_due:
                    has_moved = False
                    self._forget(found)
                yield found
                if is_due:
                    soon = time.monotonic() + pause
                    due = time.monotonic() + max(_REST, pause)

    def _wait(self) -> tuple[int, int] | None:
        """Waits until there is the folder; without one, gives up where only what is there is wanted."""
        away = False
        while True:
            try:
                identity = _identity(self._folder)
            except OSError as error:
                if not away:
                    self._tell(f"{self._folder} cannot be read: {error.strerror}")
                if self._once:
                    return None
                away = True
                time.sleep(_AWAY)
            else:
                if away:
                    self._tell(f"{self._folder} is back")
                return identity

    def _everything(self) -> dict[Path, os.stat_result]:
        """The photos that are there and not empty."""
        problems = PhotoList([], [], [])
        found = _there(photo_files(self._folder, problems))
        for each in problems.unusable:
            if each.path not in self._told:
                self._told.add(each.path)
                self._tell(f"{each.path} {each.reason}")
        self._is_searched = not problems.unusable
        return found

    def _of(self, paths: Set[Path]) -> dict[Path, os.stat_result]:
        """Those of some files that are photos, of which those that have gone are not waited for any more."""
        found = _there(path for path in paths if is_photo_name(path) and not self._is_result(path))
        for path in paths - found.keys():
            self._waiting.pop(path, None)
        return found

    def _is_result(self, path: Path) -> bool:
        below = path.relative_to(self._folder).parents
        return any((self._folder / each / RECORD_NAME).exists() for each in below if each != Path())

    def _is_still(self, identity: tuple[int, int]) -> bool:
        try:
            return _identity(self._folder) == identity
        except OSError:
            return False

    def _forget(self, found: dict[Path, os.stat_result]) -> None:
        """Forgets what has been removed."""
        # An empty folder may be one whose drive is away, and what cannot be searched may be searched later.
        if found and self._is_searched:
            self._given = {path: stamp for path, stamp in self._given.items() if path in found}
        self._waiting = {path: seen for path, seen in self._waiting.items() if path in found}

    def _complete(self, found: dict[Path, os.stat_result]) -> list[Path]:
        now = time.monotonic()
        complete = []
        for path, status in found.items():
            stamp = _stamp(status)
            if self._given.get(path) == stamp:
                continue
            if path not in self._waiting or self._waiting[path][0] != stamp:
                self._waiting[path] = stamp, now
            if _was_renamed(status) or now - self._waiting[path][1] >= _SETTLED:
                complete.append(path)
        return complete

    def _pictures(self, path: Path, stamp: _Stamp) -> Iterator[Picture]:
        # Those before it took their time.
        try:
            if _stamp(path.stat()) != stamp:
                return
            listing = find_photos(path)
        except OSError:
            return
        finally:
            self._waiting.pop(path, None)
        self._given[path] = stamp
        taken = as_time(stamp.changed / 1e9)
        for name in (*listing.photos, *(each.path for each in listing.unusable)):
            if (name, taken) not in self._known:
                place = os.path.relpath(name, self._folder)
                yield Picture(name, name, {"time": taken}, place)


def _notices(folder: Path) -> Iterator[set[Path]]:
    """Several times a second, the files and folders of which something was noticed."""
    try:
        for changes in watch(
            folder,
            watch_filter=None,
            debounce=100,
            step=20,
            rust_timeout=int(1000 * _TICK),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            yield {Path(path) for _, path in changes}
    except (OSError, RuntimeError):
        # A system without notices, or one that has no more to give, or the folder is gone.
        while True:
            time.sleep(_TICK)
            yield set()


def _there(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    """Those that are files and not empty."""
    found = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size:
            found[path] = status
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """Tells a folder from another of the same name, such as the one that a drive was mounted on."""
    status = folder.stat()
    with os.scandir(folder):
        return status.st_dev, status.st_ino


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_mtime_ns, status.st_size)


def _was_renamed(status: os.stat_result) -> bool:
    """Whether something else than its content has changed last, as when it was given its name; Windows does not say."""
    return os.name == "posix" and status.st_ctime_ns > status.st_mtime_ns
