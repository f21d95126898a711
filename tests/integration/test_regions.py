"""Regions of inspection, from the command line and the engine to what their user gets."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F  # noqa: N812
from anomalib.data import MVTecAD
from PIL import Image
from sklearn.metrics import roc_auc_score

from dual_image_clip.cli import main
from dual_image_clip.photos import UnusableImageError
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_category, make_photos, save
from tests.helpers import make_engine, make_model, predict
from tests.integration.commands import rows_of

QUICK = ["--class-name", "metal plate", "--backbone", EMBEDDED, "--adaptation-steps", "0"]
SIDE = 120
LEFT, RIGHT = slice(0, SIDE // 2), slice(SIDE // 2, SIDE)


def half(columns: slice, finer: int = 1) -> np.ndarray:
    """White in some columns, in the size of a photo or larger."""
    picture = np.zeros((SIDE, SIDE), np.uint8)
    picture[:, columns] = 255
    return picture.repeat(finer, 0).repeat(finer, 1)


def spoil(path, columns: slice) -> None:
    """Draws a dark spot into one half of a photo."""
    pixels = np.array(Image.open(path))
    centre = (columns.start + columns.stop) // 2
    pixels[48:72, centre - 12 : centre + 12] = 30
    save(pixels, path)


@pytest.fixture
def photos(workspace):
    """Ten photos, of which one is spoilt on the left, one on the right."""
    folder = make_photos(workspace / "photos", normal=10, defective=0)
    spoil(folder / "plate_002.png", LEFT)
    spoil(folder / "plate_007.png", RIGHT)
    return folder


def ranked(folder) -> list[str]:
    return [row["path"].rpartition("/")[2] for row in rows_of(folder / "predictions.csv")]


@pytest.mark.parametrize("kind", ["picture", "polygons", "folder"])
def test_what_lies_outside_is_not_found(photos, workspace, kind):
    if kind == "picture":
        region = save(half(LEFT, finer=2), workspace / "region.png")
    elif kind == "polygons":
        region = workspace / "region.json"
        region.write_text(json.dumps({"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}))
    else:
        region = workspace / "masks"
        for photo in photos.iterdir():
            save(half(LEFT), region / photo.name)
    assert main(["predict", str(photos), *QUICK, "--output", "all"]) == 0
    assert set(ranked(workspace / "all")[:2]) == {"plate_002.png", "plate_007.png"}
    assert main(["predict", str(photos), *QUICK, "--regions", str(region), "--save-maps", "--output", "out"]) == 0
    names = ranked(workspace / "out")
    assert names[0] == "plate_002.png"
    labels = {row["path"].rpartition("/")[2]: row["label"] for row in rows_of(workspace / "out" / "predictions.csv")}
    assert (labels["plate_002.png"], labels["plate_007.png"]) == ("anomalous", "normal")
    for name in names:
        values = np.array(Image.open(workspace / "out" / "maps" / name))
        assert values[:, : SIDE // 2 - 1].min() > 0
        assert values[:, SIDE // 2 + 1 :].max() == 0


def test_photos_that_no_region_was_drawn_for_are_listed(photos, workspace, caplog):
    save(np.array(Image.open(photos / "plate_000.png"))[:80], photos / "wide.png")
    for photo in photos.iterdir():
        save(half(LEFT), workspace / "masks" / photo.name)
    (workspace / "masks" / "plate_004.png").unlink()
    save(np.zeros((SIDE, SIDE), np.uint8), workspace / "masks" / "plate_005.png")
    assert main(["predict", str(photos), *QUICK, "--regions", "masks", "--output", "out"]) == 0
    names = ranked(workspace / "out")
    assert len(names) == 8
    assert names[0] == "plate_002.png"
    said = caplog.text
    assert "3 file(s) could not be used" in said
    assert "plate_004.png: has no mask in masks, where plate_004.png was expected" in said
    assert "plate_005.png: has the mask masks/plate_005.png, in which nothing is white" in said
    assert "wide.png: has 80×120 pixels (height×width), another aspect than its region masks/wide.png" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.png", None, "there is no file or folder nowhere.png"),
        ("black.png", np.zeros((9, 9), np.uint8), "nothing is white in black.png"),
        ("far.json", '{"polygons": [[[0, 0], [1.5, 0], [1, 1]]]}', "polygon 1 of far.json has the corner [1.5, 0]"),
        ("text.json", "polygons", "text.json cannot be read as JSON"),
        ("notes.txt", "polygons", "notes.txt is neither a picture, nor a folder of pictures, nor a .json file"),
    ],
)
def test_regions_that_cannot_be_used_are_told_in_one_line(photos, workspace, capsys, name, content, message):
    if isinstance(content, str):
        (workspace / name).write_text(content)
    elif content is not None:
        save(content, workspace / name)
    assert main(["predict", str(photos), *QUICK, "--regions", name, "--output", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_pixel_metrics_count_inspected_pixels_alone(workspace):
    root = workspace / "data"
    make_category(root / "bottle", normal=4, defective=2)
    region = save(half(LEFT), workspace / "region.png")
    model = make_model(class_name="plate", adaptation_steps=0, regions=region)
    found = make_engine(workspace, logger=False).test(
        model=model, datamodule=MVTecAD(root=root, category="bottle", num_workers=0, val_split_mode="none")
    )[0]
    truth, scores = [], []
    for path, item in predict(model, workspace, data_path=root / "bottle" / "test").items():
        photo = Path(path)
        mask = root / "bottle" / "ground_truth" / photo.parent.name / f"{photo.stem}_mask.png"
        drawn = np.array(Image.open(mask)) > 0 if mask.exists() else np.zeros((SIDE, SIDE), bool)
        truth.append(drawn)
        scores.append(F.interpolate(item.anomaly_map[None, None], (SIDE, SIDE), mode="bilinear")[0, 0].numpy())
    inside, everywhere = (
        roc_auc_score(np.stack(truth)[..., columns].ravel(), np.stack(scores)[..., columns].ravel())
        for columns in (LEFT, slice(None))
    )
    # Partners are others where photos come in another order, so the scores are nearly the same.
    assert found["pixel_AUROC"] == pytest.approx(inside, abs=0.01)
    # Not so where the region is not minded: half of the defects would be missed.
    assert abs(everywhere - inside) > 0.05


def test_a_line_looks_where_it_is_told(photos, workspace, caplog):
    for photo in photos.iterdir():
        save(half(LEFT), workspace / "masks" / photo.name)
    model = make_model(class_name="plate", adaptation_steps=0, regions=workspace / "masks", threshold=0.9)
    detector = StreamingDetector(model)
    with caplog.at_level(logging.WARNING):
        scores = {path.name: detector(path) for path in sorted(photos.iterdir())}
    assert max(list(scores)[2:], key=lambda name: scores[name].score) == "plate_002.png"
    assert not scores["plate_007.png"].anomaly_map[:, SIDE // 2 + 1 :].any()
    with pytest.raises(UnusableImageError, match=r"has no name by which its mask in .*masks could be found"):
        detector(np.array(Image.open(photos / "plate_000.png")))
