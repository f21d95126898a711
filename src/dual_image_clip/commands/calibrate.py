"""``dual-image-clip calibrate``: the threshold that keeps a rate of false alarms, from photos known to be good."""

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dual_image_clip.commands.errors import FAILED, CommandError
from dual_image_clip.commands.model import add_class_name, add_model_arguments, load_model, require_words
from dual_image_clip.commands.output import add_json, give_result, tell
from dual_image_clip.conformal import TooFewPhotosError, require_enough
from dual_image_clip.presets import BEST
from dual_image_clip.threshold_file import Calibration, ThresholdFileError, read_threshold_file

_DESCRIPTION = """\
Scores photos that are known to be good, and finds the threshold above which at most a given share of good photos will
lie. What later photos are judged with must be the same: class name, backbone, references, golden photos and all other
settings, which the file of thresholds records.

Most photos count with golden ones and no references: --golden FOLDER --num-references 0. FOLDER may be the same as
GOOD: the photos of it that are drawn as golden ones are then left out. With references, photos are scored in groups of
one and its references, and only one of each group counts.
"""
_EXAMPLE = """\
exit codes: 0 all went well, 1 photos could not be scored, 2 an argument is wrong or there are too few photos

example: dual-image-clip calibrate GOOD --class-name "metal nut" --golden GOOD --num-references 0
         dual-image-clip predict PHOTOS --class-name "metal nut" --golden GOOD --num-references 0 \\
             --threshold threshold.json
"""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    command = commands.add_parser(
        "calibrate",
        help="find the threshold that keeps a rate of false alarms",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("good", type=Path, metavar="GOOD", help="folder of photos that are known to be good")
    add_class_name(command)
    command.add_argument(
        "--false-alarm-rate",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of good photos that may be called anomalous; 0.01 takes 99 good photos (default: %(default)s)",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("threshold.json"),
        metavar="FILE",
        help="where to write; an earlier file of thresholds is replaced (default: %(default)s)",
    )
    add_json(command)
    add_model_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Finds the thresholds and writes them.

    Args:
        options: Arguments of ``calibrate``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, or there are too few photos.
    """
    if not 0 < options.false_alarm_rate < 1:
        msg = f"--false-alarm-rate {options.false_alarm_rate:g} must lie above 0 and below 1: 0.01 is one in a hundred"
        raise CommandError(msg)
    if not options.good.exists():
        msg = f"there is no folder {options.good}"
        raise CommandError(msg)
    require_words(options)
    _require_replaceable(options.output)
    photos = _find_photos(options)
    warnings.simplefilter("ignore")
    found = _calibrate(options, photos)
    try:
        found.save(options.output)
    except OSError as error:
        msg = f"cannot write --output {options.output}: {error.strerror or error}"
        raise CommandError(msg, FAILED) from error
    last = f"Thresholds: {options.output}"
    if options.json:
        tell(last)
    give_result([*_summary(found), last], {**asdict(found), "file": str(options.output)}, options.json)
    return 0


def _find_photos(options: argparse.Namespace) -> list[str]:
    from dual_image_clip.photos import find_photos, require_photos

    num_references = options.num_references
    if num_references is None:
        num_references = BEST["num_references"] if options.best else 1
    listing = find_photos(options.good)
    for each in listing.unusable:
        tell(f"Passed over: {each.path} {each.reason}")
    try:
        photos = require_photos(listing, options.good)
        # Without golden photos, which are left out, there will be still fewer.
        require_enough(len(photos), max(0, num_references), options.false_alarm_rate)
    except TooFewPhotosError as error:
        msg = f"{options.good}: {error}"
        raise CommandError(msg) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    return photos


def _require_replaceable(output: Path) -> None:
    """Makes sure that a file can be written, and that nothing else is in its place."""
    if os.path.lexists(output):
        try:
            read_threshold_file(output)
        except ThresholdFileError as error:
            msg = f"--output {output} is there already and is no file of thresholds: move it away, or choose another"
            raise CommandError(msg) from error
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot write to --output {output}: {error.strerror}"
        raise CommandError(msg) from error
    if not os.access(output.parent, os.W_OK):
        msg = f"cannot write to --output {output}: {output.parent} is read-only"
        raise CommandError(msg)


def _calibrate(options: argparse.Namespace, photos: list[str]) -> Calibration:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from dual_image_clip.calibration import calibrate

    model = load_model(options, visualizer=False)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Scoring good photos", total=len(photos))
        try:
            return calibrate(
                model,
                photos,
                options.false_alarm_rate,
                lambda done, total: bar.update(task, completed=done, total=total),
                lambda file: tell(f"Passed over: {file.path} {file.reason}"),
            )
        except TooFewPhotosError as error:
            msg = f"{options.good} without golden and unusable photos: {error}"
            raise CommandError(msg) from error
        except (ValueError, OSError, MemoryError) as error:
            raise CommandError(str(error), FAILED) from error


def _summary(found: Calibration) -> Iterator[str]:
    golden, references = found.settings["k_shot"], found.settings["num_references"]
    kinds = [f"{golden} golden photo(s)"] * bool(golden) + [f"{references} other(s)"] * bool(references)
    against = f"against {' and '.join(kinds)}" if kinds else "by text"
    counted = "" if found.counted == found.photos else f"; {found.counted} of them, independent of each other, count"
    yield f"{found.photos} good photos scored {against}{counted}"
    for path, score in found.suspicious:
        yield f"Looks defective: {score:.3f} (median {found.median:.3f}) {path}; look at it, and remove it if it is"
    yield (
        f"Above {found.threshold:g} a photo is anomalous, above {found.map_threshold:g} a pixel: each expected of at "
        f"most {found.false_alarm_rate:.3g} of good photos"
    )
