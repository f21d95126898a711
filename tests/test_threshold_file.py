"""A file of thresholds: what a model takes from it, and when it refuses it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dual_image_clip import DualImageCLIP
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.threshold_file import Calibration, ThresholdFileError, read_threshold_file
from dual_image_clip.ui.scorer import Scorer
from tests.drawn_data import make_photos
from tests.helpers import TINY, cloudy_images, make_engine, tiny_model

NAME = "metal nut"


def detector(**arguments: Any) -> DualImageCLIP:
    return tiny_model(**{"class_name": NAME, "adaptation_steps": 0, **arguments})


def write_for(model: DualImageCLIP, path: Path, threshold: float = 0.3, map_threshold: float = 0.6) -> Path:
    Calibration(threshold, map_threshold, 0.01, 120, 120, 0.2, (("odd.png", 0.9),), model.score_settings).save(path)
    return path


def write_polygon(path: Path, corner: float) -> Path:
    path.write_text(json.dumps({"polygons": [[[0, 0], [1, 0], [corner, 1]]]}), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write_for(detector(), tmp_path / "threshold.json")


def test_what_is_written_is_read(file):
    found = read_threshold_file(file)
    assert (found.threshold, found.map_threshold, found.false_alarm_rate) == (0.3, 0.6, 0.01)
    assert found.settings == detector().score_settings
    assert list(file.parent.iterdir()) == [file]


def test_model_labels_by_both_thresholds(file):
    model = detector(threshold=file)
    assert float(model.post_processor.current_threshold()) == pytest.approx(0.3)
    assert float(model.post_processor.current_pixel_threshold()) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_references", 2),
        ("aggregation", "median"),
        ("lambda_2", 1.0),
        ("peak_share", 0.02),
        ("adaptation_steps", 1),
        ("temperature", 0.5),
        ("smooth", False),
        ("seed", 1),
        ("image_size", 96),
        ("value_range", (0.0, 4095.0)),
        ("class_name", "screw"),
    ],
)
def test_other_setting_is_named(file, setting, value):
    with pytest.raises(ThresholdFileError, match=f"threshold.json was made with {setting}=.*calibrate again") as told:
        detector(threshold=file, **{setting: value})
    assert "\n" not in str(told.value)


def test_other_backbone_is_told_before_weights_are_loaded(file, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dual_image_clip.lightning_model.load_backbone", refuse)
    with pytest.raises(ThresholdFileError, match=f"made with backbone='{TINY}', and here it is 'ViT-B-16-plus-240'"):
        DualImageCLIP(class_name=NAME, adaptation_steps=0, threshold=file)


def test_golden_images_and_regions_are_told_apart_by_what_they_are(tmp_path):
    golden = make_photos(tmp_path / "golden", normal=3, defective=0)
    regions = write_polygon(tmp_path / "regions.json", 1)
    given = {"k_shot": 3, "few_shot_source": golden, "regions": regions}
    file = write_for(detector(**given), tmp_path / "threshold.json")
    # Wherever the files lie.
    moved = {"few_shot_source": golden.rename(tmp_path / "elsewhere"), "regions": regions.rename(tmp_path / "r.json")}
    detector(**{**given, **moved}, threshold=file)
    write_polygon(tmp_path / "r.json", 0.5)
    with pytest.raises(ThresholdFileError, match="made with other regions"):
        detector(**{**given, **moved}, threshold=file)
    write_polygon(tmp_path / "r.json", 1)
    (tmp_path / "elsewhere" / "plate_000.png").write_bytes((tmp_path / "elsewhere" / "plate_001.png").read_bytes())
    with pytest.raises(ThresholdFileError, match="made with other golden images"):
        detector(**{**given, **moved}, threshold=file)


def test_class_name_that_comes_later_is_held_to_it(file):
    model = detector(class_name=None, threshold=file)
    with pytest.raises(ThresholdFileError, match="class_name='metal nut', and here it is 'screw'"):
        model.set_class_name("screw")
    model.set_class_name(NAME)


def test_stream_and_page_take_as_many_references_as_were_calibrated(file, tmp_path):
    with pytest.raises(ThresholdFileError, match="num_references=1, and here it is 8"):
        StreamingDetector(detector(threshold=file))
    stream = StreamingDetector(detector(threshold=file), references=1)
    assert stream(cloudy_images(1)[0]).threshold == pytest.approx(0.3)
    photos = sorted(map(str, make_photos(tmp_path / "photos", normal=2, defective=0).iterdir()))
    page = Scorer(detector(threshold=file))
    assert page(photos, NAME, lambda *_: None).threshold == pytest.approx(0.3)
    with pytest.raises(ThresholdFileError, match="num_references=1, and here it is 0"):
        page(photos[:1], NAME, lambda *_: None)


def test_checkpoint_does_without_the_file(file, tmp_path):
    model, engine = detector(threshold=file), make_engine(tmp_path)
    photos = make_photos(tmp_path / "photos", normal=2, defective=0)
    engine.predict(model=model, data_path=photos)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    file.unlink()
    loaded = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt")
    assert float(loaded.post_processor.current_threshold()) == pytest.approx(0.3)
    assert float(loaded.post_processor.current_pixel_threshold()) == pytest.approx(0.6)


def without(name: str) -> Callable[[dict], object]:
    return lambda content: content.pop(name)


BROKEN: dict[str, tuple[Callable[[dict], object], str]] = {
    "no format": (without("format"), "it has no 'format'"),
    "later format": (lambda content: content.update(format=2), "written by another version"),
    "no threshold": (without("map_threshold"), "it has no 'map_threshold'"),
    "no setting": (lambda content: content["settings"].pop("seed"), "it has no 'seed'"),
    "no settings": (lambda content: content.update(settings=[]), "it has no settings"),
    "text": (lambda content: content.update(threshold="0.3"), "its threshold is '0.3'"),
    "truth": (lambda content: content.update(threshold=True), "its threshold is True"),
    "beyond": (lambda content: content.update(threshold=1.2), "its threshold is 1.2"),
    "not a number": (lambda content: content.update(map_threshold=math.nan), "its map_threshold is nan"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_file_that_says_nothing_is_refused_in_one_line(file, case):
    change, said = BROKEN[case]
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ThresholdFileError, match=said) as told:
        read_threshold_file(file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"0.3", b"[]", b"\xff\xfe", b"not json"])
def test_other_file_is_refused(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ThresholdFileError, match="is no file of thresholds"):
        detector(threshold=path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ThresholdFileError, match=r"none\.json cannot be read: No such file"):
        detector(threshold=str(tmp_path / "none.json"))
