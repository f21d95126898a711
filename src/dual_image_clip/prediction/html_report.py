"""The report of a prediction run: one HTML file that needs nothing else."""

import base64
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from dual_image_clip.photos import UnusableFile, file_of
from dual_image_clip.prediction import histogram as geometry
from dual_image_clip.prediction.outlines import draw_outlines
from dual_image_clip.prediction.picture_names import common_folder, place_below
from dual_image_clip.prediction.predictions import Outcome, Prediction, printable
from dual_image_clip.prediction.sketch import ColourScale, as_jpeg, common_scale, draw_overlay

IMAGES_A_PAGE = 50
# Pictures of a larger aspect ratio are shown one below the other, those of a smaller inverse one larger.
_LONG = 2.5


class Card(NamedTuple):
    """An image as the report shows it.

    Pictures are data URIs, ``photo_file`` and ``heatmap_file`` addresses of the files, empty where there are none.
    """

    rank: int
    name: str
    prediction: Prediction
    photo: str
    overlay: str
    shape: str
    photo_file: str
    heatmap_file: str


class Part(NamedTuple):
    """The images of a product, or all where there is no other."""

    product: str
    threshold: float | None
    num_images: int
    num_anomalous: int
    histogram: geometry.Histogram
    cards: Iterator[Card]


def write_report(outcome: Outcome, settings: dict[str, str], versions: dict[str, str], path: Path) -> None:
    """Writes the report.

    It links photos and heatmaps relative to its folder.

    Args:
        outcome: What the run has found; images of a product one after the other.
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
    # Streamed, and drawn image by image, so that a report of thousands of images is never in memory as a whole.
    environment.get_template("report.html").stream(
        outcome=outcome,
        parts=[
            _part(outcome, product, list(images), root, path.parent)
            for product, images in groupby(outcome.predictions, key=lambda each: each.product)
        ],
        labels=sorted({each.label for each in outcome.predictions}),
        images_a_page=IMAGES_A_PAGE,
        unusable=[UnusableFile(_name(each.path, root), printable(each.reason)) for each in outcome.unusable],
        root=printable(root),
        geometry=geometry,
        settings=settings,
        versions=versions,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    ).dump(str(path), encoding="utf-8")


def _part(outcome: Outcome, product: str, images: Sequence[Prediction], root: str, folder: Path) -> Part:
    threshold = outcome.threshold_of(images[0])
    # Scores of different products do not compare, and neither do the colours.
    scale = common_scale([each.sketch for each in images])
    return Part(
        product=printable(product),
        threshold=threshold,
        num_images=len(images),
        num_anomalous=sum(each.label == "anomalous" for each in images),
        histogram=geometry.histogram([each.score for each in images], threshold),
        cards=(_card(rank, each, root, scale, folder) for rank, each in enumerate(images, start=1)),
    )


def _card(rank: int, prediction: Prediction, root: str, scale: ColourScale, folder: Path) -> Card:
    overlay = draw_outlines(draw_overlay(prediction.sketch, scale), prediction.defects, prediction.size)
    photo = file_of(prediction.path)[0]
    return Card(
        rank=rank,
        name=_name(prediction.path, root),
        prediction=prediction,
        photo=_data_uri(prediction.sketch.photo),
        overlay=_data_uri(as_jpeg(overlay)),
        shape=_shape(overlay.width / overlay.height),
        photo_file=_address(photo, folder) if photo.exists() else "",
        heatmap_file=_address(folder / prediction.heatmap, folder) if prediction.heatmap else "",
    )


def _shape(aspect: float) -> str:
    if aspect > _LONG:
        return "wide"
    return "tall" if aspect < 1 / _LONG else ""


def _name(path: str, root: str) -> str:
    return printable(str(place_below(path, root)) if root else path)


def _address(file: Path, folder: Path) -> str:
    """Address of a file in a page that lies in a folder."""
    try:
        relative = os.path.relpath(file, folder)
    except ValueError:
        # On another drive.
        return file.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
