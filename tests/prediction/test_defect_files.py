"""Files of defects, read as other programs read them."""

import csv

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from dual_image_clip.defects import find_defects
from dual_image_clip.prediction import Outcome, Prediction, make_sketch
from dual_image_clip.prediction.defect_files import write_annotations, write_defects
from tests.helpers import seeded

SIZE = (60, 90)


def masks_of(seed: int) -> np.ndarray:
    """Blobs, a single pixel, a thin line and a ring."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = (rows - 20) ** 2 + (columns - 20 - seed) ** 2 < 120
    ring = (rows - 40) ** 2 + (columns - 65) ** 2
    return mask | ((ring < 150) & (ring > 60)) | ((rows == 55) & (columns < 30)) | ((rows == 2) & (columns == 80))


def prediction(path: str, seed: int, product: str = "") -> Prediction:
    scores = torch.from_numpy(masks_of(seed)) * 0.5 + 0.3 * torch.rand(SIZE, generator=seeded(seed))
    sketch = make_sketch(torch.rand(3, 16, 16), torch.rand(16, 16))
    defects = find_defects(scores, 0.5, SIZE)
    return Prediction(path, 0.9, "anomalous", 1, sketch, defects=defects, product=product, size=SIZE)


def outcome(*names: str, product: str = "") -> Outcome:
    found = [prediction(name, seed, product) for seed, name in enumerate(names)]
    good = prediction("/photos/good.png", 0, product)._replace(defects=(), label="normal", score=0.1)
    return Outcome([*found, good], {product: 0.5}, [], len(found) + 1)


NAMES = "/photos/a/x.png", '/photos/b/caf\udce9, "#2".png', "/photos/a/pages.tif#2"


@pytest.fixture
def coco(tmp_path) -> COCO:
    write_annotations(outcome(*NAMES), tmp_path / "annotations.json")
    return COCO(tmp_path / "annotations.json")


def test_annotations_hold_the_pixels_of_the_defects(coco):
    for seed, image in enumerate(coco.getImgIds()[:3]):
        annotations = coco.loadAnns(coco.getAnnIds(image))
        found = np.any([coco.annToMask(each) for each in annotations], axis=0)
        ring = (np.mgrid[: SIZE[0], : SIZE[1]] - np.array([40, 65])[:, None, None]) ** 2
        hole = ring.sum(axis=0) <= 60
        assert (found | hole).sum() == (masks_of(seed) | hole).sum()
        assert (found != (masks_of(seed) | hole)).sum() <= 2
        assert {each["area"] for each in annotations} >= {1, 30}
        assert sum(each["area"] for each in annotations) == masks_of(seed).sum()
        for each in annotations:
            rows, columns = np.nonzero(coco.annToMask(each))
            assert each["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert len(each["segmentation"][0]) >= 8


def test_annotations_are_results_as_well(coco):
    results = coco.loadRes([{**each, "score": each["score"]} for each in coco.dataset["annotations"]])
    assert len(results.getAnnIds()) == len(coco.getAnnIds()) == 12


def test_annotations_name_their_images(coco):
    assert [each["file_name"] for each in coco.loadImgs(coco.getImgIds())] == [
        "a/x.png",
        'b/caf\\udce9, "#2".png',
        "a/pages.tif#2",
        "good.png",
    ]
    assert {(each["width"], each["height"]) for each in coco.loadImgs(coco.getImgIds())} == {(90, 60)}
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "defect", "supercategory": ""}]
    assert coco.dataset.keys() == {"info", "licenses", "categories", "images", "annotations"}
    assert coco.getAnnIds(coco.getImgIds()[3]) == []


def test_a_run_without_defects_can_be_annotated(tmp_path):
    write_annotations(Outcome([], {"": None}, [], 0), tmp_path / "annotations.json")
    assert COCO(tmp_path / "annotations.json").getAnnIds() == []


@pytest.mark.parametrize("product", ["", "nut"])
def test_the_table_has_a_row_for_each_defect(product, tmp_path):
    found = outcome(*NAMES, product=product)
    write_defects(found, tmp_path / "defects.csv")
    with (tmp_path / "defects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert [row["number"] for row in rows] == ["1", "2", "3", "4"] * 3
    first, row = found.predictions[0].defects[0], rows[0]
    assert [int(row[name]) for name in ("left", "top", "width", "height", "area")] == [*first.box, first.area]
    assert float(row["share"]) == pytest.approx(first.area / 5400, abs=1e-6)
    assert float(row["largest_score"]) == pytest.approx(first.largest, abs=1e-6)
    assert float(row["mean_score"]) == pytest.approx(first.mean, abs=1e-6)
    assert row["path"] == NAMES[0]
    assert row.get("product") == (product or None)
