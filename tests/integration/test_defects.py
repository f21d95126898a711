"""Where defects are: the same in files, masks and the camera line, in pixels of the photos as a viewer shows them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from dual_image_clip import DualImageCLIP
from dual_image_clip.cli import main
from dual_image_clip.prediction import HeatmapVisualizer
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos
from tests.helpers import make_engine, make_model
from tests.integration.commands import rows_of

QUICK = ["--class-name", "plate", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--output", "out"]
LYING, PAGES = "lying.jpg", "pages.tif"


@pytest.fixture
def shapes(workspace) -> dict[str, np.ndarray]:
    """Good photos, and spoilt ones whose files lie on their side or have two pages: masks by name."""
    folder = make_photos(workspace / "photos", normal=8, defective=0, size=(120, 160))
    masks = {}
    for name, seed in (("spot.png", 5000), (LYING, 5001), (PAGES, 5002)):
        plate, mask = draw_plate(seed, (120, 160), "spot")
        picture = Image.fromarray(plate)
        if name == LYING:
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.transpose(Image.Transpose.ROTATE_90).save(folder / name, exif=exif, quality=95)
            assert ImageOps.exif_transpose(Image.open(folder / name)).size == (160, 120)
        elif name == PAGES:
            Image.fromarray(draw_plate(7, (120, 160))[0]).save(folder / name, save_all=True, append_images=[picture])
        else:
            picture.save(folder / name)
        masks[name if name != PAGES else f"{name}#2"] = mask > 0
    return masks


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def test_files_say_where_the_defects_are(shapes, workspace, capfd):
    assert main(["predict", "photos", *QUICK]) == 0
    photos = {Path(row["path"]).name: row for row in rows_of(Path("out/predictions.csv"))}
    defects = rows_of(Path("out/defects.csv"))
    coco = COCO("out/annotations.json")
    images = {each["file_name"]: each for each in coco.loadImgs(coco.getImgIds())}
    assert images.keys() == photos.keys()
    for name, row in photos.items():
        mine = [each for each in defects if Path(each["path"]).name == name]
        annotations = coco.loadAnns(coco.getAnnIds(images[name]["id"]))
        assert (images[name]["width"], images[name]["height"]) == (160, 120)
        assert len(mine) == len(annotations) == int(row["defects"])
        assert bool(mine) == (row["label"] == "anomalous")
        assert int(row["largest_defect"]) == max((int(each["area"]) for each in mine), default=0)
        if mine:
            assert float(mine[0]["largest_score"]) == float(row["score"])
    for name, mask in shapes.items():
        assert photos[name]["label"] == "anomalous"
        found = np.any([coco.annToMask(each) for each in coco.imgToAnns[images[name]["id"]]], axis=0)
        assert overlap(found, mask) > 0.25
        rows, columns = np.nonzero(found)
        middle = np.argwhere(mask).mean(axis=0)
        assert np.abs(np.array([rows.mean(), columns.mean()]) - middle).max() < 20
    # Small ones can be left out, and whoever has none left is still anomalous.
    areas = [int(each["area"]) for each in defects]
    assert main(["predict", "photos", *QUICK, "--min-area", str(max(areas))]) == 0
    assert [int(each["area"]) for each in rows_of(Path("out/defects.csv"))] == [max(areas)]
    assert len(json.loads(Path("out/annotations.json").read_text())["annotations"]) == 1
    assert {Path(row["path"]).name: row["label"] for row in rows_of(Path("out/predictions.csv"))} == {
        name: row["label"] for name, row in photos.items()
    }


def test_a_run_and_the_camera_line_find_the_same(shapes, workspace, capfd):
    golden = make_photos(workspace / "golden", normal=2, defective=0, size=(120, 160))
    arguments = ["--num-references", "0", "--golden", str(golden)]
    settings = {"num_references": 0, "adaptation_steps": 0, "few_shot_source": golden, "k_shot": 2}
    model = DualImageCLIP(class_name="plate", backbone=EMBEDDED, visualizer=False, **settings)
    photos = sorted((workspace / "photos").glob("*.*"))
    detector = StreamingDetector(model, references=0)
    threshold = sorted(detector(each).score for each in photos)[-3] - 1e-4
    model.post_processor.threshold = threshold
    detector = StreamingDetector(model, references=0)
    assert main(["predict", "photos", *QUICK, *arguments, "--threshold", str(threshold)]) == 0
    rows = rows_of(Path("out/defects.csv"))
    assert rows
    for path in photos:
        expected = detector(path).defects
        found = [row for row in rows if Path(row["path"]).name == path.name]
        assert len(found) == len(expected)
        for row, defect in zip(found, expected, strict=True):
            box = [int(row[name]) for name in ("left", "top", "width", "height")]
            assert np.abs(np.subtract(box, defect.box)).max() <= 1
            assert float(row["largest_score"]) == pytest.approx(defect.largest, abs=1e-4)


def outlined(path: Path) -> np.ndarray:
    """Where the panel of the mask is red, as no plate is."""
    panel = np.asarray(Image.open(path).convert("RGB")).astype(int)[:, -341:]
    return (panel[..., 0] > panel[..., 1] + 80) & (panel[..., 0] > panel[..., 2] + 80)


@pytest.mark.parametrize("follows", [True, False], ids=["at the end", "at once"])
def test_heatmaps_outline_what_the_engine_masks(follows, shapes, workspace):
    given = {} if follows else {"threshold": 0.45}
    model = make_model(visualizer=HeatmapVisualizer("images"), adaptation_steps=0, num_references=2, **given)
    batches = make_engine(workspace).predict(model=model, data_path=workspace / "photos")
    assert {bool(batch.pred_label) for batch in batches} == {True, False}
    for batch in batches:
        name = Path(batch.image_path[0]).name
        lines = outlined(Path("images") / (name if name.endswith((".png", ".jpg", ".tif")) else f"{name}.png"))
        assert lines.any() == bool(batch.pred_label)
        if lines.any():
            mask = np.asarray(Image.fromarray(batch.pred_mask[0].numpy()).resize((341, 256)))
            (top, bottom, left, right), expected = (
                (rows.min(), rows.max(), columns.min(), columns.max())
                for rows, columns in map(np.nonzero, (lines, mask))
            )
            assert np.abs(np.subtract((bottom, left, right), expected[1:])).max() <= 6
            # The number stands above.
            assert -25 <= top - expected[0] <= 6
