"""The model of a command: the arguments that describe it, and how it is loaded."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shtab

from dual_image_clip.class_names import require_class_name
from dual_image_clip.commands.errors import CommandError
from dual_image_clip.commands.output import Messages
from dual_image_clip.presets import BEST

# torch and anomalib take seconds to import: they are, where they are needed, so that help and mistakes take none.
if TYPE_CHECKING:
    from dual_image_clip.lightning_model import DualImageCLIP

MOST_GOLDEN = 16
"""Golden samples of a folder that are used."""

_TAKEN_OVER = (
    *("class_name", "threshold", "num_references", "adaptation_steps"),
    *("regions", "image_size", "backbone", "pretrained"),
)


def add_class_name(command: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds what the photos show, which a command cannot do without unless there is another way to say it."""
    command.add_argument(
        "--class-name", required=required, metavar="NAME", help='what the photos show, in English words: "metal nut"'
    )


def add_threshold(command: argparse.ArgumentParser) -> None:
    """Adds what decides which photos are called anomalous."""
    argument: Any = command.add_argument(
        "--threshold",
        type=_threshold,
        metavar="NUMBER|FILE",
        help="call a photo anomalous when its score, 0 to 1, is above this; or a file that dual-image-clip calibrate "
        "has written (default: judged by the scores of all photos, which takes at least eight)",
    )
    argument.complete = shtab.FILE


def _threshold(text: str) -> float | Path:
    """A number, or a file of thresholds, which the model reads before its weights."""
    try:
        return float(text)
    except ValueError:
        pass
    path = Path(text)
    if not path.exists():
        msg = f"{text} is neither a number nor a file that dual-image-clip calibrate has written"
        raise argparse.ArgumentTypeError(msg)
    return path


def add_decision_arguments(command: argparse.ArgumentParser) -> None:
    """Adds what decides which photos, and which places in them, are called anomalous."""
    add_threshold(command)
    command.add_argument(
        "--min-area",
        type=int,
        default=0,
        metavar="N",
        help="pixels of the photo that a defect must have to be listed (default: %(default)s)",
    )


def add_model_arguments(command: argparse.ArgumentParser, num_references: int = 1) -> None:
    """Adds what all commands that load a model have in common.

    Args:
        command: The command.
        num_references: Other photos that it compares each with, where its user does not say.
    """
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
        help=f"other photos that each is compared with; more find more and take longer (default: {num_references})",
    )
    command.add_argument(
        "--adaptation-steps",
        type=int,
        metavar="N",
        help="steps of fitting to each photo; 0 takes half the time (default: 2)",
    )
    command.add_argument(
        "--golden",
        type=Path,
        metavar="FOLDER",
        help="photos known to be good, with which each is compared as well; of more than "
        f"{MOST_GOLDEN}, so many drawn at random",
    )
    command.add_argument(
        "--regions",
        type=Path,
        metavar="FILE",
        help="where photos are inspected: a picture that is white there, of any size, a folder of such pictures that "
        "are called as the photos are, or a .json file of polygons in shares of width and height",
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


def require_words(options: argparse.Namespace) -> None:
    """Checks a class name before anything is loaded.

    Raises:
        CommandError: It has no letters.
    """
    try:
        require_class_name(options.class_name, "--class-name")
    except ValueError as error:
        raise CommandError(str(error)) from error


def load_model(
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

    quieten()
    chosen = {name: getattr(options, name) for name in _TAKEN_OVER if getattr(options, name, None) is not None}
    preset = {**BEST, "num_references": min(BEST["num_references"], most_references)} if options.best else {}
    try:
        return DualImageCLIP(
            value_range=None if options.value_range is None else tuple(options.value_range),
            **{**preset, **chosen, **golden_arguments(options.golden), **arguments},
        )
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(str(error)) from error


def golden_arguments(folder: Path | None) -> dict[str, Any]:
    """All golden samples of a folder, up to a number that is compared with in reasonable time.

    Args:
        folder: The folder, or ``None`` for none.

    Returns:
        Arguments of the model.

    Raises:
        CommandError: There are no photos.
    """
    if folder is None:
        return {}
    from dual_image_clip.photos import find_photos, require_photos

    try:
        photos = require_photos(find_photos(folder), folder)
    except (ValueError, OSError) as error:
        msg = f"--golden: {error}"
        raise CommandError(msg) from error
    return {"few_shot_source": folder, "k_shot": min(MOST_GOLDEN, len(photos))}


def quieten() -> None:
    """Keeps the notes of libraries, of no use to somebody with a folder of photos, out of the way."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[Messages()])
    for name in ("anomalib", "lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
