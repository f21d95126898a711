"""Watches a folder and scores each new image file, once it is completely written.

Prints a line a file and appends it to a CSV file, which also tells after a restart what has been scored. Without
``--backbone``, CLIP's weights are downloaded on first use.

Example:
    python examples/watch_folder.py PHOTOS --class-name "metal nut"
    python examples/watch_folder.py PHOTOS --class-name "metal nut" --backbone dual-image-clip-demo --once
"""

import argparse
import csv
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from anomalib.data.utils.image import is_image_file

from dual_image_clip import DualImageCLIP
from dual_image_clip.photos import UnusableImageError
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

    model = DualImageCLIP(class_name=arguments.class_name, backbone=arguments.backbone)
    detector = StreamingDetector(model, arguments.references)
    done = files_in(arguments.csv)
    with arguments.csv.open("a", newline="") as results:
        try:
            for path in complete_files(arguments.folder.resolve(), done, arguments.interval, arguments.once):
                process(path, detector, results)
        except KeyboardInterrupt:
            print("ended")


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
    while not once or wanted - done:
        time.sleep(interval)
        now = stamps(folder)
        # What has been removed is forgotten, so that a watch of years needs no more memory than the folder has files.
        done &= set(now)
        wanted &= set(now)
        for path in sorted(now, key=lambda path: (now[path], path)):
            if path not in done and now[path] == before.get(path) and (path in wanted or not once):
                done.add(path)
                yield path
        before = now


def stamps(folder: Path) -> dict[Path, Stamp]:
    """Time of change and size of each image file that is not empty."""
    found = {}
    for path in filter(is_image_file, folder.iterdir()):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file() and status.st_size:
            found[path] = (status.st_mtime_ns, status.st_size)
    return found


def process(path: Path, detector: StreamingDetector, results: TextIO) -> None:
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
    writer = csv.writer(results)
    if not results.tell():
        writer.writerow(COLUMNS)
    verdict = "anomalous" if result.label else "normal"
    writer.writerow([path, f"{result.score:.6f}", f"{result.threshold:.6f}", verdict, result.num_references])
    # A crash must not lose what was printed.
    results.flush()


def describe(path: Path, result: StreamingResult) -> str:
    """A line for people."""
    verdict = "ANOMALOUS" if result.label else "normal"
    return f"{path.name}: {verdict}, score {result.score:.3f}, threshold {result.threshold:.3f}"


def files_in(results: Path) -> set[Path]:
    """The files that an earlier run scored."""
    if not results.exists():
        return set()
    with results.open(newline="") as rows:
        return {Path(row["file"]) for row in csv.DictReader(rows)}


if __name__ == "__main__":
    main()
