"""``dual-image-clip predict``: scores a folder of photos."""

import argparse
import warnings
from collections.abc import Iterator
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
from dual_image_clip.commands.output import add_json
from dual_image_clip.commands.products import add_product_arguments, has_products
from dual_image_clip.commands.scoring import (
    DEFAULT_OUTPUT,
    early_end,
    give_outcome,
    picture_folders,
    require_output,
    score_folder,
)

if TYPE_CHECKING:
    from dual_image_clip.prediction import Outcome

_TOP = 3
_DESCRIPTION = """\
Scores every photo of a folder and its subfolders, finds the places that look unlike the rest, and writes

  report.html      the photos ranked, most suspicious first, each beside its heatmap, to sort, filter and print; opens
                   without internet
  predictions.csv  path, score, label, threshold, number of references, heatmap, number of defects and pixels of the
                   largest of each photo, in the same order
  defects.csv      box, area and scores of each defect, in pixels of its photo as a viewer shows it
  annotations.json the defects as polygons in the format of COCO, for annotation tools and training
  images/          a heatmap for each photo, under its path below the folder that all photos have in common, or where
                   subfolders are products, below FOLDER
  maps/            with --save-maps, the anomaly map of each photo

Nothing has to be trained, and no good samples are needed. Files that cannot be read are listed and passed over. Ctrl-C
ends early and keeps what is done.
"""
_EXIT_CODES = """\
exit codes: 0 all went well, 1 the run failed, 2 an argument is wrong, 130 ended early by Ctrl-C

examples: dual-image-clip predict PHOTOS --class-name "metal nut"
          dual-image-clip predict PHOTOS --class-from-folder
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
    add_class_name(command, required=False)
    add_product_arguments(command)
    command.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="where to write; results of an earlier run there are replaced, no other file is (default: %(default)s)",
    )
    command.add_argument(
        "--save-maps",
        action="store_true",
        help="also write the anomaly map of each photo into DIR/maps: a grey 16-bit PNG of the photo's own size, in "
        "which 65535 stands for 1, the most anomalous",
    )
    add_json(command)
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
    several = has_products(options)
    if not options.folder.exists():
        msg = f"there is no folder {options.folder}"
        raise CommandError(msg)
    warnings.simplefilter("ignore")
    if several:
        from dual_image_clip.commands import predict_products

        return predict_products.run(options)
    require_words(options)
    photos = _find_photos(options.folder)
    require_output(options, photos)
    from dual_image_clip.prediction import HeatmapVisualizer, PredictionReport

    heatmaps = HeatmapVisualizer(*picture_folders(options), min_area=options.min_area)
    model = load_model(
        options,
        most_references=max(1, len(photos) - 1),
        visualizer=heatmaps,
    )
    report = PredictionReport(options.output, options.min_area)
    interrupted = False
    try:
        score_folder(model, options.folder, options.output, report)
    except KeyboardInterrupt:
        if report.outcome is None:
            raise
        interrupted = True
    if report.outcome is None or not report.outcome.predictions:
        msg = f"no image in {options.folder} could be scored, see {options.output / 'report.html'}"
        raise CommandError(msg, FAILED)
    give_outcome(options, report.outcome, report.written, _summary(report.outcome))
    if interrupted:
        return INTERRUPTED
    return FAILED if report.failures or heatmaps.failures else 0


def _find_photos(folder: Path) -> list[str]:
    from dual_image_clip.photos import find_photos, require_photos

    try:
        return require_photos(find_photos(folder), folder)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _summary(outcome: "Outcome") -> Iterator[str]:
    from dual_image_clip.prediction import on_one_line

    labels = f"{outcome.num_anomalous} anomalous"
    if outcome.threshold is None:
        labels = "too few to call any normal or anomalous without --threshold"
    yield f"{len(outcome.predictions)} images, {labels}"
    yield from early_end(outcome)
    yield "Most suspicious:"
    for each in outcome.predictions[:_TOP]:
        yield f"  {each.score:.3f}  {each.label}  {on_one_line(each.path)}"
