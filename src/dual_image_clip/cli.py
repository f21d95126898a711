"""The command ``dual-image-clip``, for those who do not want to know about anomalib's."""

import argparse
import logging
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dual_image_clip.class_names import require_class_name
from dual_image_clip.mistakes import one_line
from dual_image_clip.presets import BEST

# torch and anomalib take seconds to import: they are, where they are needed, so that help and mistakes take none.
if TYPE_CHECKING:
    from dual_image_clip.lightning_model import DualImageCLIP
    from dual_image_clip.prediction import Outcome

FAILED, WRONG_ARGUMENTS, INTERRUPTED = 1, 2, 130
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


class CommandError(Exception):
    """Something that a user can put right, told in one line.

    Args:
        message: What is wrong.
        exit_code: Of the command.
    """

    def __init__(self, message: str, exit_code: int = WRONG_ARGUMENTS) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Those of the command line; without them, the process's.

    Returns:
        Exit code, see ``dual-image-clip predict --help``.
    """
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except CommandError as error:
        if options.debug:
            traceback.print_exc()
        _say(f"dual-image-clip: error: {one_line(error)}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if options.command == "predict":
            _say("Interrupted before the first image was scored; nothing was written.", sys.stderr)
        return INTERRUPTED


def predict(options: argparse.Namespace) -> int:
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
    model = _load_model(
        options,
        most_references=max(1, len(photos) - 1),
        class_name=options.class_name,
        threshold=options.threshold,
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


def ui(options: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C.

    Args:
        options: Arguments of ``ui``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, Gradio is not installed, or the port is taken.
    """
    from dual_image_clip.ui import require_free_port, require_gradio, serve

    try:
        require_gradio()
        require_free_port(options.host, options.port)
    except ValueError as error:
        raise CommandError(str(error)) from error
    warnings.simplefilter("ignore")
    model = _load_model(options)
    try:
        serve(model, options.host, options.port, lambda address: _say(f"Open {address} in a browser; Ctrl-C ends."))
    except OSError as error:
        raise CommandError(str(error), FAILED) from error
    return 0


COMMANDS = {"predict": predict, "ui": ui}


def _load_model(
    options: argparse.Namespace, most_references: int = BEST["num_references"], **arguments: Any
) -> "DualImageCLIP":
    """Loads the model of a command.

    Args:
        options: Of the command.
        most_references: References that there are, for a preset that takes as many as it can get.
        **arguments: Further ones of the model.

    Returns:
        The model.

    Raises:
        CommandError: An argument is wrong, or weights could not be loaded.
    """
    from dual_image_clip.lightning_model import DualImageCLIP

    _quieten()
    names = ("num_references", "adaptation_steps", "image_size", "backbone", "pretrained")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    preset = {**BEST, "num_references": min(BEST["num_references"], most_references)} if options.best else {}
    try:
        return DualImageCLIP(
            value_range=None if options.value_range is None else tuple(options.value_range),
            **{**preset, **chosen, **arguments},
        )
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dual-image-clip", description="Finds defects in photos, without training.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "predict",
        help="score a folder of photos",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of photos, or a single photo")
    command.add_argument(
        "--class-name", required=True, metavar="NAME", help='what the photos show, in English words: "metal nut"'
    )
    command.add_argument(
        "--output",
        type=Path,
        default=_DEFAULT_OUTPUT,
        metavar="DIR",
        help="where to write; results of an earlier run there are replaced, no other file is (default: %(default)s)",
    )
    command.add_argument(
        "--threshold",
        type=float,
        help="call a photo anomalous when its score, 0 to 1, is above this "
        "(default: judged by the scores of all photos, which takes at least eight)",
    )
    command.add_argument(
        "--save-maps",
        action="store_true",
        help="also write the anomaly map of each photo into DIR/maps: a grey 16-bit PNG of the photo's own size, in "
        "which 65535 stands for 1, the most anomalous",
    )
    _add_model_arguments(command)
    _add_ui(commands)
    return parser


def _add_ui(commands: Any) -> None:
    command = commands.add_parser(
        "ui",
        help="serve a page on which images can be dropped",
        description="Serves a page: drop images, type what they show, see them ranked with heatmaps. Nothing leaves "
        "this machine, and nobody else can open the page unless --host says so. Needs Gradio: "
        "pip install 'dual-image-clip[ui]'",
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets everybody in the network use the page (default: %(default)s)",
    )
    command.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    _add_model_arguments(command)


def _add_model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--best",
        action="store_true",
        help="settings that were measured to find most, in half the time, in place of the paper's: up to 8 references "
        "and no adaptation; options beside it come first",
    )
    command.add_argument(
        "--num-references",
        type=int,
        metavar="N",
        help="other photos that each is compared with; more find more and take longer (default: 1)",
    )
    command.add_argument(
        "--adaptation-steps",
        type=int,
        metavar="N",
        help="steps of fitting to each photo; 0 takes half the time (default: 2)",
    )
    command.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of photos of more than 8 bits that are black and white, such as 0 4095 "
        "(default: 0 65535, for floating point 0 1)",
    )
    command.add_argument(
        "--backbone",
        help="CLIP architecture (default: ViT-B-16-plus-240, 0.8 GB to download once); "
        "dual-image-clip-demo lies inside the package, for a first try",
    )
    command.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="pixels of the short side that photos are brought to; more show smaller defects, and take time and memory "
        "(default: the backbone's own, 240)",
    )
    command.add_argument("--pretrained", help="tag of open_clip's, or a file of weights, for machines without internet")
    command.add_argument("--debug", action="store_true", help="show where in the program a mistake was found")


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
    try:
        require_class_name(options.class_name, "--class-name")
    except ValueError as error:
        raise CommandError(str(error)) from error
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


def _quieten() -> None:
    """Keeps the notes of libraries, of no use to somebody with a folder of photos, out of the way."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("anomalib", "lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _summarise(outcome: "Outcome", written: Mapping[str, Path]) -> None:
    from dual_image_clip.prediction import CSV_NAME, REPORT_NAME, on_one_line

    labels = f"{outcome.num_anomalous} anomalous"
    if outcome.threshold is None:
        labels = "too few to call any normal or anomalous without --threshold"
    _say(f"{len(outcome.predictions)} images, {labels}")
    if outcome.num_left_out:
        _say(f"Ended early: {outcome.num_left_out} of {outcome.total} files were not looked at.")
    _say("Most suspicious:")
    for each in outcome.predictions[:_TOP]:
        _say(f"  {each.score:.3f}  {each.label}  {on_one_line(each.path)}")
    for title, name in (("Report: ", REPORT_NAME), ("List:   ", CSV_NAME)):
        if name in written:
            _say(f"{title}{written[name]}")


def _say(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
