"""Defects for other programs: a table with a row for each, and annotations in the format of COCO."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from dual_image_clip.defects import Defect
from dual_image_clip.prediction.picture_names import common_folder, place_below
from dual_image_clip.prediction.predictions import Outcome, Prediction, printable

HEADER = ("number", "left", "top", "width", "height", "area", "share", "largest_score", "mean_score")
_CATEGORY = 1


def write_defects(outcome: Outcome, path: Path) -> None:
    """Writes a table of all defects, in the order of the list, with a column of products where there are several.

    Args:
        outcome: What the run has found.
        path: CSV file, UTF-8.
    """
    several = outcome.has_products
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", *["product"] * several, *HEADER])
    for prediction in outcome.predictions:
        whose = [printable(prediction.path), *[printable(prediction.product)] * several]
        for number, each in enumerate(prediction.defects, start=1):
            scores = f"{each.share:.6f}", f"{each.largest:.6f}", f"{each.mean:.6f}"
            writer.writerow([*whose, number, *each.box, each.area, *scores])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def write_annotations(outcome: Outcome, path: Path) -> None:
    """Writes the defects as COCO has them, with a polygon for each.

    Names of images are relative to the folder that all have in common, with forward slashes. Coordinates are those of
    the photos as a viewer shows them. A polygon runs around the holes of a region, which COCO's polygons cannot have;
    the area is that without them.

    Args:
        outcome: What the run has found.
        path: JSON file.
    """
    path.write_text(json.dumps(_annotations(outcome), ensure_ascii=False), encoding="utf-8")


def _annotations(outcome: Outcome) -> dict[str, Any]:
    root = common_folder([each.path for each in outcome.predictions])
    images = list(enumerate(outcome.predictions, start=1))
    found = [(image, defect) for image, prediction in images for defect in prediction.defects]
    return {
        "info": {"description": "Defects found by dual-image-clip", "contributor": "dual-image-clip"},
        "licenses": [{"id": 0, "name": "", "url": ""}],
        "categories": [{"id": _CATEGORY, "name": "defect", "supercategory": ""}],
        "images": [_image(number, prediction, root) for number, prediction in images],
        "annotations": [_annotation(number, image, defect) for number, (image, defect) in enumerate(found, start=1)],
    }


def _image(number: int, prediction: Prediction, root: str) -> dict[str, Any]:
    height, width = prediction.size
    name = place_below(prediction.path, root).as_posix() if root else prediction.path
    return {"id": number, "file_name": printable(name), "width": width, "height": height, "license": 0}


def _annotation(number: int, image: int, defect: Defect) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": _CATEGORY,
        "segmentation": [[coordinate for corner in defect.contour for coordinate in corner]],
        "area": defect.area,
        "bbox": list(defect.box),
        "iscrowd": 0,
        "score": round(defect.largest, 6),
    }
