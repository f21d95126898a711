"""``dual-image-clip watch``: scores the photos that appear in a folder, or the frames of a video or a camera."""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dual_image_clip.commands.errors import FAILED, INTERRUPTED, CommandError
from dual_image_clip.commands.model import (
    add_class_name,
    add_decision_arguments,
    add_model_arguments,
    load_model,
    require_words,
)
from dual_image_clip.commands.output import tell

if TYPE_CHECKING:
    from dual_image_clip.json_lines import JsonLines
    from dual_image_clip.prediction import OutputFolder
    from dual_image_clip.sources import Camera, Folder, Picture, Video
    from dual_image_clip.watching import Watcher

_DEFAULT_HEATMAPS = Path("results/DualImageCLIP/watch")
_NUM_REFERENCES = 8
_DESCRIPTION = """\
Scores pictures as they come, each against those that came before it, and writes a line of JSON for each to standard
output: name, size, score, label, threshold, number of references and the boxes of its defects; of a picture that
cannot be read, name and error. Messages go to standard error. SOURCE is

  a folder     every photo in it and its subfolders, and then those that appear, once they are written completely; a
               photo that changes is scored again. A folder that goes away is waited for.
  a video      every frame, or one of --every N
  a camera     its number, such as 0, or the address of a stream, such as rtsp://line-3/camera: always the newest
               frame; those that come in the meantime are dropped. A camera that goes away is asked for again.

Of pictures that are labelled anomalous, heatmaps are kept. Ctrl-C ends. Without --threshold, labels need eight
pictures: until then they are null.
"""
_EXIT_CODES = """\
exit codes: 0 the source has come to its end, 1 it failed, 2 an argument is wrong, 130 ended by Ctrl-C

example: dual-image-clip watch PHOTOS --class-name "metal nut" --output results.jsonl
"""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    command = commands.add_parser(
        "watch",
        help="score the photos that appear in a folder, or the frames of a video or a camera",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "source", metavar="SOURCE", help="folder, video file, number of a camera or address of a stream"
    )
    add_class_name(command)
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the lines to this file instead; those of an earlier watch are kept, and photos of a folder that "
        "have a score there are not scored again",
    )
    command.add_argument(
        "--heatmaps",
        type=Path,
        default=_DEFAULT_HEATMAPS,
        metavar="DIR",
        help="where heatmaps are kept, about 0.1 MB each, as many as there are anomalous pictures; no other file is "
        "replaced (default: %(default)s)",
    )
    command.add_argument("--every", type=int, default=1, metavar="N", help="score one of N frames of a video")
    command.add_argument("--once", action="store_true", help="score the photos that are in a folder, and end")
    add_decision_arguments(command)
    add_model_arguments(command, _NUM_REFERENCES)


def run(options: argparse.Namespace) -> int:
    """Scores pictures as they come.

    Args:
        options: Arguments of ``watch``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, or nothing can be written any more.
    """
    require_words(options)
    warnings.simplefilter("ignore")
    # Ended by a service manager, it ends as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from dual_image_clip.streaming import StreamingDetector
    from dual_image_clip.watching import Watcher

    lines = _lines(options)
    source = _source(options, frozenset(lines.known) if lines else frozenset())
    with _claimed(options) as heatmaps:
        references = _NUM_REFERENCES if options.num_references is None else options.num_references
        model = load_model(options, num_references=references)
        try:
            detector = StreamingDetector(model, references, options.min_area)
        except ValueError as error:
            raise CommandError(str(error)) from error
        watcher = Watcher(detector, model.reader, heatmaps, lines.append if lines else _print, tell)
        interrupted = _follow(source, watcher)
    tell(
        f"{watcher.scored} picture(s) scored, {watcher.anomalous} anomalous, {watcher.refused} of no use; "
        f"results: {options.output or 'standard output'}, heatmaps: {options.heatmaps}"
    )
    all_written = _flush(lines, options.output)
    if interrupted:
        return INTERRUPTED
    return 0 if all_written and not watcher.lost and (watcher.scored or not watcher.refused) else FAILED


def _lines(options: argparse.Namespace) -> "JsonLines | None":
    from dual_image_clip.json_lines import JsonLines

    if options.output is None:
        return None
    try:
        return JsonLines(options.output, tell)
    except ValueError as error:
        msg = f"--output: {error}"
        raise CommandError(msg) from error
    except OSError as error:
        msg = f"cannot write to --output {options.output}: {error.strerror}"
        raise CommandError(msg) from error


def _source(options: argparse.Namespace, known: Set[tuple[str, str]]) -> "Camera | Folder | Video":
    """Opens the source, or says what is wrong with it."""
    from dual_image_clip.sources import Camera, Folder, SourceError, Video, is_camera

    path, is_folder = Path(options.source), not is_camera(options.source) and Path(options.source).is_dir()
    if options.every < 1:
        msg = f"--every must be at least 1, got {options.every}"
        raise CommandError(msg)
    if options.every > 1 and (is_folder or is_camera(options.source)):
        msg = f"--every is for videos, and {options.source} is none"
        raise CommandError(msg)
    if options.once and not is_folder:
        msg = f"--once is for folders, and {options.source} is none"
        raise CommandError(msg)
    try:
        if is_camera(options.source):
            return Camera(options.source, tell)
        if not is_folder:
            return Video(path, tell, options.every)
        heatmaps = options.heatmaps.resolve()
        if heatmaps.is_relative_to(path.resolve()) or path.resolve().is_relative_to(heatmaps):
            msg = f"{path} and --heatmaps {options.heatmaps} lie inside each other: choose another --heatmaps"
            raise CommandError(msg)
        return Folder(path, tell, options.once, known)
    except SourceError as error:
        raise CommandError(str(error)) from error


@contextmanager
def _claimed(options: argparse.Namespace) -> "Iterator[OutputFolder]":
    from dual_image_clip.prediction import OutputError, OutputFolder

    folder = OutputFolder(options.heatmaps)
    try:
        folder.claim(())
    except OutputError as error:
        msg = f"--heatmaps: {error}"
        raise CommandError(msg) from error
    try:
        yield folder
    finally:
        folder.release()


def _follow(source: "Iterable[Picture]", watcher: "Watcher") -> bool:
    """Scores the pictures of a source.

    Returns:
        Whether it was ended before the source was.
    """
    try:
        for picture in source:
            with _to_its_end():
                watcher(picture)
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def _to_its_end() -> Iterator[None]:
    """Lets Ctrl-C wait until a picture has its line."""
    came: list[int] = []
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(each, lambda number, _: came.append(number)) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
    if came:
        raise KeyboardInterrupt


def _print(record: dict[str, Any]) -> None:
    from dual_image_clip.json_lines import as_line

    try:
        sys.stdout.write(as_line(record))
        sys.stdout.flush()
    except OSError as error:
        # Python itself would complain about it once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        msg = f"cannot write to standard output: {error.strerror}"
        raise CommandError(msg, FAILED) from error


def _flush(lines: "JsonLines | None", output: Path) -> bool:
    """Writes what still waits, or shows it, so that it is not lost.

    Returns:
        Whether all is written.
    """
    if lines is None:
        return True
    lines.flush()
    if lines.waiting:
        tell(f"{len(lines.waiting)} result(s) could not be written to {output}, and follow on standard output")
        sys.stdout.write("".join(lines.waiting))
    return not lines.waiting
