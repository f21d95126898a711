"""Which files may have their thresholds changed, and what becomes of their records; labels are integration tests'."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.export import set_threshold
from dual_image_clip.photos import RECORD_NAME
from dual_image_clip.threshold_file import Calibration, ThresholdFileError
from tests.export.test_detector import make_model
from tests.helpers import cloudy_images

IMAGES = cloudy_images(3)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    """Says that torch files, which are pickles, are trusted."""
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")


def plain_model(**arguments) -> DualImageCLIP:
    return make_model(adaptation_steps=0, **arguments)


def label(path: Path) -> Tensor:
    """Labels of the images, and whether each has anomalous pixels."""
    found = torch.load(path, weights_only=False)["model"](IMAGES)
    return torch.stack([found.pred_label, found.pred_mask.flatten(1).any(1)])


def calibrated(path: Path, **settings) -> Path:
    everything = {**plain_model().score_settings, "class_name": "metal nut", **settings}
    Calibration(0.0, 1.0, 0.01, 120, 120, 0.1, (), everything).save(path)
    return path


def test_file_that_never_had_a_threshold_gets_one_and_counts_as_exported_still(tmp_path):
    path = plain_model().to_torch(tmp_path)
    assert not label(path).any()
    set_threshold(path, 0.0)
    assert label(path).all()
    set_threshold(str(path), 1.0, 0.0)
    assert label(path).tolist() == [[False] * 3, [True] * 3]
    # The next export replaces it, as its own.
    assert plain_model().to_torch(tmp_path) == path
    assert not label(path).any()
    assert not list(path.parent.glob("*.part"))


def test_copy_elsewhere_is_changed_without_a_trace(tmp_path):
    path, copy = plain_model(threshold=0.9).to_torch(tmp_path), tmp_path / "line" / "model.pt"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    before = path.read_bytes()
    set_threshold(copy, 0.0)
    assert label(copy).all()
    assert list(copy.parent.iterdir()) == [copy]
    assert path.read_bytes() == before


def test_file_that_somebody_has_changed_does_not_become_ours(tmp_path):
    path = plain_model().to_torch(tmp_path)
    shutil.copy(plain_model(smooth=False).to_torch(tmp_path / "other"), path)
    record = (path.parent / RECORD_NAME).read_text()
    set_threshold(path, 0.0)
    assert label(path).all()
    assert (path.parent / RECORD_NAME).read_text() == record


def test_file_of_thresholds_gives_both(tmp_path):
    path = plain_model().to_torch(tmp_path)
    set_threshold(path, calibrated(tmp_path / "threshold.json"))
    assert label(path).tolist() == [[True] * 3, [False] * 3]


def test_thresholds_that_were_calibrated_with_partners_are_refused(tmp_path):
    path, thresholds = plain_model().to_torch(tmp_path), calibrated(tmp_path / "threshold.json", num_references=1)
    before = path.read_bytes()
    with pytest.raises(ThresholdFileError, match=r"threshold\.json was made with num_references=1"):
        set_threshold(path, thresholds)
    assert path.read_bytes() == before
    model = plain_model(num_references=1, threshold=thresholds)
    with pytest.raises(ThresholdFileError, match=r"num_references=1, and here it is 0"):
        model.to_torch(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "thresholds", "said"),
    [
        ("model.bin", (0.5,), "no exported file"),
        ("missing.onnx", (0.5,), "there is no file"),
        ("model.pt", (1.5,), "threshold must lie in 0..1, got 1.5"),
        ("model.pt", (0.5, float("nan")), "map_threshold must lie in 0..1, got nan"),
        ("other.pt", (0.5,), "other.pt has no thresholds that could be changed"),
    ],
)
def test_what_cannot_be_changed_is_told_and_left(name, thresholds, said, tmp_path):
    path = tmp_path / name
    for each in ("model.pt", "other.pt", "model.bin"):
        torch.save({"model": torch.nn.Identity()}, tmp_path / each)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(said)):
        set_threshold(path, *thresholds)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_torch_file_that_nobody_trusts_is_not_read(tmp_path, monkeypatch):
    monkeypatch.delenv("TRUST_REMOTE_CODE")
    path = tmp_path / "model.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch here'\ntR.")
    with pytest.raises(ValueError, match=r"model\.pt is a pickle.* set TRUST_REMOTE_CODE=1"):
        set_threshold(path, 0.5)


def test_model_that_labels_nothing_has_no_thresholds(tmp_path):
    model = plain_model()
    model.post_processor.enable_thresholding = False
    path = model.to_torch(tmp_path)
    with pytest.raises(ValueError, match="no thresholds"):
        set_threshold(path, 0.5)


def test_ground_truth_of_one_kind_labels_as_before(tmp_path):
    """Scores that ground truth has scaled have 0.5 for a threshold, and shares of them still tell pixels apart."""
    model = plain_model()
    raw = model.model(model.pre_process(IMAGES))
    limit = raw.pred_score.sort().values[:2].mean()
    model.post_processor._image_threshold.fill_(limit)
    model.post_processor.image_min.fill_(raw.pred_score.min())
    expected = model.post_processor(raw)
    found = torch.load(model.to_torch(tmp_path), weights_only=False)["model"](IMAGES)
    assert found.pred_label.tolist() == (raw.pred_score > limit).tolist()
    for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)
