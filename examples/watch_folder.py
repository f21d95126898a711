"""Watches a folder and scores each new image file, once it is completely written.

Prints a line a file and appends it to a CSV file, which also tells after a restart what has been scored. Without
``--backbone``, CLIP's weights are downloaded on first use.

Example:
    python examples/watch_folder.py PHOTOS --class-name "metal nut"
    python examples/watch_folder.py PHOTOS --class-name "metal nut" --backbone dual-image-clip-demo --once
"""

import argparse
import csv
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dual_image_clip import DualImageCLIP
from dual_image_clip.photos import UnusableImageError, is_photo, why_not
from dual_image_clip.streaming import StreamingDetector, StreamingResult

COLUMNS = ("file", "score", "threshold", "label", "references")
Stamp = tuple[int, int]


def main() -> None:
    """Scores what is in the folder, and what comes until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of images; its subfolders are not looked at")
    parser.add_argument("--class-name", required=True, help='what the images show, such as "metal nut"')
    parser.add_argument("--backbone", default="ViT-B-16-plus-240", help="(default: %(default)s)")
    parser.add_argument("--references", type=int, default=8, help="images to compare with (default: %(default)s)")
    parser.add_argument("--csv", type=Path, default=Path("results.csv"), help="file of results (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between looks (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="score what is there and end")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"there is no folder {arguments.folder}")
    logging.getLogger("anomalib").setLevel(logging.WARNING)
    # A name of a file may hold any bytes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        results = Results(arguments.csv)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    model = DualImageCLIP(class_name=arguments.class_name, backbone=arguments.backbone)
    detector = StreamingDetector(model, arguments.references)
    try:
        for path in complete_files(arguments.folder.resolve(), results.files, arguments.interval, arguments.once):
            process(path, detector, results)
    except KeyboardInterrupt:
        print("ended")
    if results.waiting:
        sys.exit(f"{len(results.waiting)} result(s) could not be written to {arguments.csv}:\n{results.text()}")


def complete_files(folder: Path, done: set[Path], interval: float, once: bool) -> Iterator[Path]:
    """Image files of a folder, each when it has not changed between two looks.

    A file that changes afterwards is the same file still, unless it is removed in between.

    Args:
        folder: Folder to look at.
        done: Files that are not wanted; those given are added.
        interval: Seconds between two looks.
        once: Whether to end when all files of the first look were given.

    Yields:
        Paths, the oldest file of a look first.
    """
    before = stamps(folder)
    wanted = set(before)
    missing = ""
    while not once or wanted - done:
        time.sleep(interval)
        try:
            now = stamps(folder)
        except OSError as error:
            # A network drive may come back, and what it holds has been scored.
            if missing != (missing := f"{folder} cannot be read: {error.strerror}"):
                print(missing, flush=True)
            if once:
                return
            continue
        missing = ""
        # What has been removed is forgotten, so that a watch of years needs no more memory than the folder has files.
        done &= set(now)
        wanted &= set(now)
        for path in sorted(now, key=lambda path: (now[path], path)):
            if path not in done and now[path] == before.get(path) and (path in wanted or not once):
                done.add(path)
                yield path
        before = now


def stamps(folder: Path) -> dict[Path, Stamp]:
    """Time of change and size of each image file that is not empty, also of those that can only be named."""
    found = {}
    for path in folder.iterdir():
        if not is_photo(path.suffix) and why_not(path.suffix) is None:
            continue
        try:
            status = path.stat()
        except OSError:
            continue
        if path.is_file() and status.st_size:
            found[path] = (status.st_mtime_ns, status.st_size)
    return found


class Results:
    """The CSV file of results, to which rows are only added, by one watch at a time.

    Args:
        path: The file, which need not exist.

    Attributes:
        files: The files of its complete rows.
        waiting: Rows that could not be written yet, such as to a full disk; the next row takes them along.

    Raises:
        ValueError: It is a file of another kind, or another watch writes to it.
        OSError: It cannot be read, or nothing can be written beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.waiting: list[tuple] = []
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), 0)
        try:
            self._lock.acquire()
        except Timeout:
            msg = f"another watch is writing to {path}: choose another --csv"
            raise ValueError(msg) from None
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        header = ",".join(COLUMNS)
        if text.startswith(f"{header}\n"):
            self._missing = "" if text.endswith("\n") else "\r\n"
        elif header.startswith(text):
            self._missing = f"{header[len(text) :]}\r\n"
        else:
            msg = f"{path} is there already and holds no results of a watch: move it away, or choose another --csv"
            raise ValueError(msg)
        # A row that a crash has cut off is no result.
        self.files = {Path(row["file"]) for row in csv.DictReader(io.StringIO(text)) if row["references"]}

    def append(self, row: tuple) -> None:
        """Adds a row, or keeps it."""
        self.waiting.append(row)
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
                file.write(self._missing + self.text())
        except OSError as error:
            print(f"{self._path}: {error.strerror}; {len(self.waiting)} result(s) wait", flush=True)
            with suppress(OSError):
                os.truncate(self._path, size)
        else:
            self.waiting, self._missing = [], ""

    def text(self) -> str:
        """The rows that wait."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(self.waiting)
        return text.getvalue()


def process(path: Path, detector: StreamingDetector, results: Results) -> None:
    """Scores a file, prints the result and appends it to the results."""
    try:
        result = detector(path)
    except UnusableImageError as error:
        print(f"{path.name} {error.reason}", flush=True)
        return
    except ValueError as error:
        print(f"{path.name}: {error}", flush=True)
        return
    print(describe(path, result), flush=True)
    verdict = "anomalous" if result.label else "normal"
    results.append((path, f"{result.score:.6f}", f"{result.threshold:.6f}", verdict, result.num_references))


def describe(path: Path, result: StreamingResult) -> str:
    """A line for people."""
    verdict = "ANOMALOUS" if result.label else "normal"
    return f"{path.name}: {verdict}, score {result.score:.3f}, threshold {result.threshold:.3f}"


if __name__ == "__main__":
    main()
