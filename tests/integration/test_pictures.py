"""The pictures of a run: one for each photo, true to the photo and to the labels, and in no other file's place."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import ImageBatch
from anomalib.visualization import ImageVisualizer
from PIL import Image

from dual_image_clip.cli import main
from dual_image_clip.prediction import HeatmapVisualizer, OutputError
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos, save
from tests.helpers import make_data, make_engine, make_model
from tests.integration.commands import files_of_at_most, rows_of

QUICK = ["--backbone", EMBEDDED, "--adaptation-steps", "0"]
STOCK = ["predict", "--model", "DualImageCLIP", "--model.backbone", EMBEDDED, "--model.adaptation_steps", "0"]
LATEST = Path("results", "DualImageCLIP", "latest")


def own(photos: Path, *more: str) -> int:
    return main(["predict", str(photos), "--class-name", "plate", *QUICK, "--output", "out", *more])


def stock(photos: Path) -> AnomalibCLI:
    return AnomalibCLI([*STOCK, "--data", str(photos)])


def pictures(folder: Path) -> list[str]:
    """Names of all files but records and the settings that the stock command saves."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and path.name != "config.yaml"
    )
    return sorted(path.relative_to(folder).as_posix() for path in files)


def drawing_model(**arguments):
    return make_model(**{"visualizer": True, "adaptation_steps": 0, **arguments})


def mask_panel(path: Path) -> np.ndarray:
    """Pixels of the last panel that are red as outlines are; plates are grey."""
    panel = np.asarray(Image.open(path).convert("RGB")).astype(int)[:, -256:]
    return (panel[..., 0] > panel[..., 1] + 80) & (panel[..., 0] > panel[..., 2] + 80)


@pytest.fixture
def shifts(workspace):
    """Photos of the same names, in folders of the same names."""
    for shift in "ab":
        make_photos(workspace / "shoot" / shift / "x", normal=5, defective=0)
    return workspace / "shoot"


EACH = [f"{shift}/x/plate_{index:03}.png" for shift in "ab" for index in range(5)]


def test_each_photo_has_a_heatmap_of_its_own_that_list_and_report_name(shifts):
    assert own(shifts) == 0
    stock(shifts)
    for folder in (Path("out"), LATEST):
        assert pictures(folder / "images") == EACH
        for row in rows_of(folder / "predictions.csv"):
            expected = Path(row["path"]).resolve().relative_to(shifts.resolve()).as_posix()
            assert row["heatmap"] == f"images/{expected}"
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert all(f'href="images/{name}"' in page for name in EACH)


def test_heatmaps_of_a_known_data_set_stay_where_they_were(mvtec, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(model=drawing_model(), datamodule=make_data(mvtec))
    photos = sorted(
        path.relative_to(mvtec / "bottle").as_posix() for path in (mvtec / "bottle" / "test").rglob("*.png")
    )
    assert pictures(tmp_path / "DualImageCLIP" / "MVTecAD" / "bottle" / "latest" / "images") == photos


def test_a_visualizer_of_the_users_own_stays(photos, tmp_path):
    given = ImageVisualizer(output_dir=tmp_path / "own")
    model = drawing_model(visualizer=given)
    assert model.visualizer is given
    assert isinstance(drawing_model().visualizer, HeatmapVisualizer)
    make_engine(tmp_path).predict(model=model, data_path=photos)
    assert len(pictures(tmp_path / "own")) == 11


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody's own")
    return path


@pytest.mark.parametrize("name", ["predictions.csv", "annotations.json", "images/plate_003.png"])
def test_the_stock_command_replaces_no_other_file(name, photos, workspace):
    taken = put(LATEST / name)
    with pytest.raises(OutputError, match=rf"{name} is there already .*move it away, or choose another folder"):
        stock(photos)
    assert taken.read_text() == "somebody's own"
    assert pictures(LATEST) == [name]
    taken.unlink()
    stock(photos)
    stock(photos)
    assert len(pictures(LATEST / "images")) == 11


def test_a_test_run_replaces_no_other_file(mvtec, tmp_path):
    latest = tmp_path / "DualImageCLIP" / "MVTecAD" / "bottle" / "latest"
    taken = put(latest / "images" / "test" / "good" / "003.png")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"good.003\.png is there already"):
            make_engine(tmp_path).test(model=drawing_model(), datamodule=make_data(mvtec))
    assert pictures(latest / "images") == ["test/good/003.png"]
    assert taken.read_text() == "somebody's own"
    taken.unlink()
    for _ in range(2):
        make_engine(tmp_path).test(model=drawing_model(), datamodule=make_data(mvtec))
    assert len(pictures(latest / "images")) == 12


def test_a_run_that_fails_at_its_start_claims_nothing_for_ever(photos, tmp_path):
    with pytest.raises(ValueError, match="num_references=50"):
        make_engine(tmp_path).predict(model=drawing_model(num_references=50), data_path=photos)
    taken = put(tmp_path / "DualImageCLIP" / "latest" / "images" / "plate_003.png")
    with pytest.raises(OutputError, match=r"plate_003\.png is there already"):
        make_engine(tmp_path).predict(model=drawing_model(), data_path=photos)
    assert taken.read_text() == "somebody's own"


def test_long_photos_keep_their_aspect_ratio_and_maps_their_size(workspace, capfd):
    photos = make_photos(workspace / "photos", normal=2, defective=1, size=(60, 960))
    save(draw_plate(3, (90, 70))[0], photos / "other.jpg")
    assert own(photos, "--save-maps") == 0
    assert capfd.readouterr().out.splitlines()[-1].endswith("; heatmaps: out/images; anomaly maps: out/maps")
    assert Image.open("out/images/spoilt_000.png").size == (2048, 3 * 128)
    assert pictures(Path("out/maps")) == ["other.jpg.png", "plate_000.png", "plate_001.png", "spoilt_000.png"]
    for name, size in (("spoilt_000.png", (960, 60)), ("other.jpg.png", (70, 90))):
        saved = Image.open(Path("out/maps") / name)
        assert (saved.mode, saved.size) == ("I;16", size)
    # The spot is where the map says: brighter than the rest, and dark in the photo.
    values = np.asarray(Image.open("out/maps/spoilt_000.png")).astype(float)
    photo = np.asarray(Image.open(photos / "spoilt_000.png").convert("L"))
    assert 0 < values.min() < values.max() < 65535
    assert values[photo < 60].mean() > 1.5 * values[photo > 100].mean()


def test_maps_hold_what_the_engine_predicts(photos, tmp_path):
    model = drawing_model(visualizer=HeatmapVisualizer(tmp_path / "images", tmp_path / "maps"))
    for batch in make_engine(tmp_path).predict(model=model, data_path=photos):
        name = Path(batch.image_path[0]).name
        saved = np.asarray(Image.open(tmp_path / "maps" / name)) / 65535
        # Photos of 120 × 120 pixels are scored at 240 × 240.
        assert saved.shape == (120, 120)
        assert np.abs(saved - batch.anomaly_map[0].reshape(120, 2, 120, 2).mean((1, 3)).numpy()).max() < 0.02


def test_what_cannot_be_written_is_said_and_the_rest_is_there(workspace, capfd, caplog):
    photos = make_photos(workspace / "photos", normal=9, defective=0)
    # Smaller in JPEG than the limit, while all others are PNG.
    save(draw_plate(50)[0], photos / "small.jpg")
    # One that is passed over must not be blamed.
    (photos / "broken.png").write_text("not an image")
    with files_of_at_most(40_000):
        assert own(photos) == 1
    assert pictures(Path("out")) == ["annotations.json", "defects.csv", "images/small.jpg", "predictions.csv"]
    found = rows_of(Path("out/predictions.csv"))
    assert len(found) == 10
    assert [row["heatmap"] for row in found if row["heatmap"]] == ["images/small.jpg"]
    assert "9 picture(s) could not be written, the first: out/images/plate_000.png: File too large" in caplog.text
    assert "out/report.html: File too large" in caplog.text
    said = capfd.readouterr().out
    assert "out/predictions.csv" in said
    assert "report.html" not in said
    assert own(photos) == 0
    assert len(pictures(Path("out/images"))) == 10


def test_a_list_that_cannot_be_written_is_written_elsewhere(photos, workspace, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if Path(target) == Path("out/predictions.csv"):
            raise OSError(28, "No space left on device")
        return written(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert own(photos) == 1
    assert "out/predictions.csv: No space left on device" in caplog.text
    (spare,) = tmp_path.glob("dual-image-clip-*/predictions.csv")
    assert f"The list is in {spare} instead." in caplog.text
    assert len(rows_of(spare)) == 11
    assert len(pictures(Path("out/images"))) == 11
    assert Path("out/report.html").exists()


@pytest.mark.parametrize("taken", ["out/images", "out/maps"])
def test_a_folder_that_cannot_be_made_is_the_cause_that_is_named(taken, photos, workspace, capfd):
    (photos / "broken.png").write_text("not an image")
    put(Path(taken))
    assert own(photos, "--save-maps") != 0
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"{taken}" in said
    assert "broken" not in said
    assert pictures(Path("out")) == [Path(taken).name]


def test_a_folder_that_may_not_be_written_is_named(photos, workspace, capfd):
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only to root")
    Path("out").mkdir(mode=0o500)
    assert own(photos) != 0
    assert "cannot write to" in capfd.readouterr().err.strip().splitlines()[-1]


def test_masks_agree_with_the_labels_whatever_the_order(workspace, tmp_path):
    photos = make_photos(workspace / "photos", normal=20, defective=0)
    for name in ("a_first.png", "z_last.png"):
        save(draw_plate(1, defect="spot")[0], photos / name)
    batches = make_engine(tmp_path).predict(model=drawing_model(), data_path=photos)
    images = tmp_path / "DualImageCLIP" / "latest" / "images"
    labels = {Path(batch.image_path[0]).name: bool(batch.pred_label) for batch in batches}
    masks = {Path(batch.image_path[0]).name: bool(batch.pred_mask.any()) for batch in batches}
    assert labels["a_first.png"]
    assert labels["z_last.png"]
    outlined = {name: bool(mask_panel(images / name).any()) for name in labels}
    assert outlined == masks
    assert outlined["a_first.png"]
    assert outlined["z_last.png"]


def test_with_ground_truth_masks_are_drawn_at_once(mvtec, tmp_path, monkeypatch):
    monkeypatch.setattr(HeatmapVisualizer, "complete", lambda *_, **__: None)
    make_engine(tmp_path).test(model=drawing_model(), datamodule=make_data(mvtec))
    images = tmp_path / "DualImageCLIP" / "MVTecAD" / "bottle" / "latest" / "images"
    assert mask_panel(images / "test" / "spot" / "000.png").any()


def kept_batches() -> int:
    gc.collect()
    return sum(isinstance(each, ImageBatch) for each in gc.get_objects())


def test_the_stock_command_keeps_no_predictions_that_nobody_can_use(photos, workspace):
    before = kept_batches()
    cli = stock(photos)
    assert kept_batches() - before <= 1
    assert len(rows_of(LATEST / "predictions.csv")) == 11
    again = cli.engine.predict(model=cli.model, data_path=photos)
    assert len(again) == 11


def test_python_gets_its_predictions_from_the_engine_of_a_command(photos, workspace):
    cli = AnomalibCLI([*STOCK, "--data", str(photos)], run=False)
    assert len(cli.engine.predict(model=cli.model, data_path=photos)) == 11
