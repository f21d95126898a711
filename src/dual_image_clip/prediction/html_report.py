"""The report of a prediction run: one HTML file that needs nothing else."""

import base64
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction import histogram as geometry
from dual_image_clip.prediction.picture_names import common_folder, place_below
from dual_image_clip.prediction.predictions import Outcome, Prediction, printable
from dual_image_clip.prediction.sketch import ColourScale, as_jpeg, common_scale, draw_overlay

IMAGES_A_PAGE = 50
# Pictures of a larger aspect ratio are shown one below the other, those of a smaller inverse one larger.
_LONG = 2.5


class Card(NamedTuple):
    """An image as the report shows it; pictures are data URIs, and ``heatmap`` is the address of the large one."""

    rank: int
    name: str
    prediction: Prediction
    photo: str
    overlay: str
    shape: str
    heatmap: str


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
    root = common_folder([*(each.path for each in outcome.predictions), *(each.path for each in outcome.unusable)])
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
        page = predictions[start : start + IMAGES_A_PAGE]
        yield [_card(start + index + 1, each, root, scale) for index, each in enumerate(page)]


def _card(rank: int, prediction: Prediction, root: str, scale: ColourScale) -> Card:
    overlay = draw_overlay(prediction.sketch, scale)
    return Card(
        rank=rank,
        name=_name(prediction.path, root),
        prediction=prediction,
        photo=_data_uri(prediction.sketch.photo),
        overlay=_data_uri(as_jpeg(overlay)),
        shape=_shape(overlay.width / overlay.height),
        heatmap=quote(Path(prediction.heatmap).as_posix(), errors="surrogateescape") if prediction.heatmap else "",
    )


def _shape(aspect: float) -> str:
    if aspect > _LONG:
        return "wide"
    return "tall" if aspect < 1 / _LONG else ""


def _name(path: str, root: str) -> str:
    return printable(str(place_below(path, root)) if root else path)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
