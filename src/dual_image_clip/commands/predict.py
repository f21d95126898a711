"""``dual-image-clip predict``: scores a folder of photos."""

import argparse
import warnings
from collections.abc import Mapping, Sequence
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
from dual_image_clip.commands.output import say

if TYPE_CHECKING:
    from dual_image_clip.prediction import Outcome

_DEFAULT_OUTPUT = Path("results/DualImageCLIP/latest")
_HEATMAPS, _MAPS = "images", "maps"
_TOP = 3
_DESCRIPTION = """\
Scores every photo of a folder and its subfolders, finds the places that look unlike the rest, and writes

  report.html      the photos ranked, most suspicious first, each beside its heatmap; opens without internet
  predictions.csv  path, score, label, threshold, number of references and heatmap of each photo, in the same order
  images/          a heatmap for each photo, under its path below the folder that all photos have in common
  maps/            with --save-maps, the anomaly map of each photo

Nothing has to be trained, and no good samples are needed. Files that cannot be read are listed and passed over. Ctrl-C
ends early and keeps what is done.
"""
_EXIT_CODES = """\
exit codes: 0 all went well, 1 the run failed, 2 an argument is wrong, 130 ended early by Ctrl-C

example: dual-image-clip predict PHOTOS --class-name "metal nut"
"""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    command = commands.add_parser(
        "predict",
        help="score a folder of photos",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of photos, or a single photo")
    add_class_name(command)
    command.add_argument(
        "--output",
        type=Path,
        default=_DEFAULT_OUTPUT,
        metavar="DIR",
        help="where to write; results of an earlier run there are replaced, no other file is (default: %(default)s)",
    )
    command.add_argument(
        "--save-maps",
        action="store_true",
        help="also write the anomaly map of each photo into DIR/maps: a grey 16-bit PNG of the photo's own size, in "
        "which 65535 stands for 1, the most anomalous",
    )
    add_decision_arguments(command)
    add_model_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Scores a folder of photos.

    Args:
        options: Arguments of ``predict``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, or the run failed.
    """
    photos = _check(options)
    warnings.simplefilter("ignore")
    from anomalib.engine import Engine

    from dual_image_clip.hooks import PhotoFolder, PhotoProgressBar
    from dual_image_clip.prediction import HeatmapVisualizer, OutputError, PredictionReport

    heatmaps = HeatmapVisualizer(options.output / _HEATMAPS, options.output / _MAPS if options.save_maps else None)
    model = load_model(
        options,
        most_references=max(1, len(photos) - 1),
        visualizer=heatmaps,
    )
    report = PredictionReport(options.output)
    engine = Engine(default_root_dir=options.output, logger=False, callbacks=[PhotoProgressBar(), report])
    try:
        engine.predict(model=model, dataset=PhotoFolder(options.folder), return_predictions=False)
    except (ValueError, OSError, MemoryError, OutputError) as error:
        raise CommandError(str(error), FAILED) from error
    except SystemExit:
        # Lightning's end after Ctrl-C; by then the report is written.
        if not engine.trainer.interrupted:
            raise
        if report.outcome is None:
            raise KeyboardInterrupt from None
        _summarise(report.outcome, report.written)
        return INTERRUPTED
    if report.outcome is None or not report.outcome.predictions:
        msg = f"no image in {options.folder} could be scored, see {options.output / 'report.html'}"
        raise CommandError(msg, FAILED)
    _summarise(report.outcome, report.written)
    return FAILED if report.failures or heatmaps.failures else 0


def _check(options: argparse.Namespace) -> list[str]:
    """Everything that can be told before anything is loaded.

    Returns:
        The photos.

    Raises:
        CommandError: An argument is wrong.
    """
    folder: Path = options.folder
    if not folder.exists():
        msg = f"there is no folder {folder}"
        raise CommandError(msg)
    require_words(options)
    heatmaps = options.output / _HEATMAPS
    pictures = [heatmaps, options.output / _MAPS] if options.save_maps else [heatmaps]
    if options.output.resolve().is_relative_to(folder.resolve()):
        msg = f"--output {options.output} lies inside {folder}, where results would be taken for photos the next time"
        raise CommandError(msg)
    for written in pictures:
        if written.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(written.resolve()):
            msg = f"{folder} and {written}, where pictures are written, lie inside each other: choose another --output"
            raise CommandError(msg)
    photos = _find_photos(folder)
    _require_own(options.output, pictures, photos)
    return photos


def _find_photos(folder: Path) -> list[str]:
    from dual_image_clip.photos import find_photos, require_photos

    try:
        return require_photos(find_photos(folder), folder)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _require_own(output: Path, pictures: Sequence[Path], photos: Sequence[str]) -> None:
    """Makes sure that nothing of the user's is in the place of a result."""
    from dual_image_clip.hooks import make_latest
    from dual_image_clip.prediction import CSV_NAME, PNG, REPORT_NAME, OutputError, OutputFolder, picture_names

    names = picture_names(photos), picture_names(photos, formats=PNG)
    try:
        if output == _DEFAULT_OUTPUT:
            make_latest(output)
        output.mkdir(parents=True, exist_ok=True)
        OutputFolder(output).require_own((CSV_NAME, REPORT_NAME))
        for folder, written in zip(pictures, names, strict=False):
            OutputFolder(folder).require_own(written.values())
    except OutputError as error:
        msg = f"--output {output}: {error}"
        raise CommandError(msg) from error
    except OSError as error:
        msg = f"cannot write to --output {output}: {error.strerror}"
        raise CommandError(msg) from error


def _summarise(outcome: "Outcome", written: Mapping[str, Path]) -> None:
    from dual_image_clip.prediction import CSV_NAME, REPORT_NAME, on_one_line

    labels = f"{outcome.num_anomalous} anomalous"
    if outcome.threshold is None:
        labels = "too few to call any normal or anomalous without --threshold"
    say(f"{len(outcome.predictions)} images, {labels}")
    if outcome.num_left_out:
        say(f"Ended early: {outcome.num_left_out} of {outcome.total} files were not looked at.")
    say("Most suspicious:")
    for each in outcome.predictions[:_TOP]:
        say(f"  {each.score:.3f}  {each.label}  {on_one_line(each.path)}")
    for title, name in (("Report: ", REPORT_NAME), ("List:   ", CSV_NAME)):
        if name in written:
            say(f"{title}{written[name]}")
