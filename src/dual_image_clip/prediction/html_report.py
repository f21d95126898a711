"""The report of a prediction run: one HTML file that needs nothing else."""

import base64
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from dual_image_clip.hooks import UnusableFile
from dual_image_clip.prediction import histogram as geometry
from dual_image_clip.prediction.predictions import Outcome, Prediction, printable
from dual_image_clip.prediction.sketch import as_jpeg, common_scale, draw_overlay

IMAGES_A_PAGE = 50


class Card(NamedTuple):
    """An image as the report shows it; pictures are data URIs."""

    rank: int
    name: str
    prediction: Prediction
    photo: str
    overlay: str


def write_report(outcome: Outcome, settings: dict[str, str], versions: dict[str, str], path: Path) -> None:
    """Writes the report.

    Args:
        outcome: What the run has found.
        settings: Settings of the model by name, ``class_name`` among them.
        versions: Versions by name.
        path: HTML file.
    """
    environment = Environment(
        loader=PackageLoader("dual_image_clip.prediction", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    root = _common_folder([*outcome.predictions, *outcome.unusable])
    scores = [each.score for each in outcome.predictions]
    # Streamed, and drawn page by page, so that a report of thousands of images is never in memory as a whole.
    environment.get_template("report.html").stream(
        outcome=outcome,
        num_pages=-(-len(outcome.predictions) // IMAGES_A_PAGE),
        pages=_pages(outcome.predictions, root),
        unusable=[UnusableFile(_name(each.path, root), printable(each.reason)) for each in outcome.unusable],
        root=printable(root),
        geometry=geometry,
        histogram=geometry.histogram(scores, outcome.threshold) if scores else None,
        settings=settings,
        versions=versions,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    ).dump(str(path), encoding="utf-8")


def _pages(predictions: Sequence[Prediction], root: str) -> Iterator[list[Card]]:
    scale = common_scale([each.sketch for each in predictions])
    for start in range(0, len(predictions), IMAGES_A_PAGE):
        yield [
            Card(
                rank=start + index + 1,
                name=_name(each.path, root),
                prediction=each,
                photo=_data_uri(each.sketch.photo),
                overlay=_data_uri(as_jpeg(draw_overlay(each.sketch, scale))),
            )
            for index, each in enumerate(predictions[start : start + IMAGES_A_PAGE])
        ]


def _common_folder(entries: Sequence[Prediction | UnusableFile]) -> str:
    folders = [os.path.dirname(each.path) for each in entries]  # noqa: PTH120
    try:
        return os.path.commonpath(folders)
    except ValueError:
        # Files on several drives, or no files at all.
        return ""


def _name(path: str, root: str) -> str:
    return printable(os.path.relpath(path, root) if root else path)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
