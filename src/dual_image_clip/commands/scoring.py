"""What runs of ``predict`` on one and on several products have in common."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dual_image_clip.commands.errors import FAILED, CommandError
from dual_image_clip.commands.model import quieten
from dual_image_clip.commands.output import give_result, tell

if TYPE_CHECKING:
    from dual_image_clip.prediction import CollectsPredictions, Outcome

DEFAULT_OUTPUT = Path("results/DualImageCLIP/latest")
_HEATMAPS, _MAPS = "images", "maps"


def require_output(options: argparse.Namespace, photos: Iterable[str], root: Path | None = None) -> None:
    """Makes sure that results can be written, and that nothing of the user's is in the place of one.

    Args:
        options: Arguments of ``predict``.
        photos: The photos that are about to be scored.
        root: As for :func:`~dual_image_clip.prediction.picture_names`.

    Raises:
        CommandError: They cannot.
    """
    folder, output = options.folder, options.output
    pictures = [each for each in picture_folders(options) if each is not None]
    if output.resolve().is_relative_to(folder.resolve()):
        msg = f"--output {output} lies inside {folder}, where results would be taken for photos the next time"
        raise CommandError(msg)
    for written in pictures:
        if written.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(written.resolve()):
            msg = f"{folder} and {written}, where pictures are written, lie inside each other: choose another --output"
            raise CommandError(msg)
    from dual_image_clip.hooks import make_latest
    from dual_image_clip.prediction import PNG, OutputError, OutputFolder, ResultFiles, picture_names

    photos = list(photos)
    names = picture_names(photos, root=root), picture_names(photos, formats=PNG, root=root)
    try:
        if output == DEFAULT_OUTPUT:
            make_latest(output)
        output.mkdir(parents=True, exist_ok=True)
        ResultFiles(output).require_own()
        for written, own in zip(pictures, names, strict=False):
            OutputFolder(written).require_own(own.values())
    except OutputError as error:
        msg = f"--output {output}: {error}"
        raise CommandError(msg) from error
    except OSError as error:
        msg = f"cannot write to --output {output}: {error.strerror}"
        raise CommandError(msg) from error


def picture_folders(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Where heatmaps go, and where anomaly maps go if they are wanted."""
    return options.output / _HEATMAPS, options.output / _MAPS if options.save_maps else None


def score_folder(model: Any, folder: Path, output: Path, collects: "CollectsPredictions", subject: str = "") -> None:
    """Scores the photos of a folder.

    Args:
        model: The model.
        folder: The photos.
        output: Folder of results.
        collects: Keeps what is found, also where the run does not come to its end.
        subject: What the progress bar tells beside its name.

    Raises:
        CommandError: The run failed.
        KeyboardInterrupt: It was ended early by Ctrl-C.
    """
    from anomalib.engine import Engine

    from dual_image_clip.hooks import PhotoFolder, PhotoProgressBar
    from dual_image_clip.prediction import OutputError

    # anomalib's engine has changed levels when it was imported.
    quieten()
    engine = Engine(default_root_dir=output, logger=False, callbacks=[PhotoProgressBar(subject), collects])
    try:
        engine.predict(model=model, dataset=PhotoFolder(folder), return_predictions=False)
    except (ValueError, OSError, MemoryError, OutputError) as error:
        raise CommandError(str(error), FAILED) from error
    except SystemExit:
        # Lightning's end after Ctrl-C; by then everything is collected.
        if not engine.trainer.interrupted:
            raise
        raise KeyboardInterrupt from None


def early_end(outcome: "Outcome") -> list[str]:
    """Says how many files were not looked at, where there are any."""
    if not outcome.num_left_out:
        return []
    return [f"Ended early: {outcome.num_left_out} of {outcome.total} files were not looked at."]


def files_line(options: argparse.Namespace, written: Mapping[str, Path]) -> str:
    """Says what was written where, report first, in one line."""
    from dual_image_clip.prediction import REPORT_NAME

    names = sorted(written, key=lambda name: name != REPORT_NAME)
    # Beside the report, a name is enough; a list that had to go elsewhere has its path.
    told = [
        name if index and written[name].parent == options.output else written[name] for index, name in enumerate(names)
    ]
    heatmaps, maps = picture_folders(options)
    return f"Results: {', '.join(map(str, told))}; heatmaps: {heatmaps}" + (f"; anomaly maps: {maps}" if maps else "")


def give_outcome(
    options: argparse.Namespace, outcome: "Outcome", written: Mapping[str, Path], lines: Iterable[str], **more: Any
) -> None:
    """Writes the result, for people or for machines.

    Args:
        options: Arguments of ``predict``.
        outcome: What was found.
        written: Files that were written, by name.
        lines: For people, what comes before the line of files.
        **more: What machines are told besides.
    """
    from dual_image_clip.records import outcome_record

    last = files_line(options, written)
    if options.json:
        tell(last)
    give_result([*lines, last], {**outcome_record(outcome, written), **more}, options.json)
