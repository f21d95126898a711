"""Which files an export may write."""

import re
from pathlib import Path

import pytest
import torch

from dual_image_clip.photos import RECORD_NAME
from dual_image_clip.prediction import OutputError
from tests.helpers import tiny_model

FILES = [
    ("torch", "model.pt"),
    ("onnx", "model.onnx"),
    ("onnx", "model.onnx.data"),
    ("openvino", "model.xml"),
    ("openvino", "model.bin"),
]


def make_model(**arguments):
    return tiny_model(class_name="metal nut", num_references=0, adaptation_steps=0, threshold=0.3, **arguments)


@pytest.mark.parametrize(("kind", "name"), FILES, ids=[name for _, name in FILES])
def test_file_of_another_is_named_and_left_before_any_work(kind, name, no_work, tmp_path):
    model, other = make_model(), tmp_path / "weights" / kind / name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"somebody else's")
    no_work()
    with pytest.raises(OutputError, match=re.escape(str(other))):
        getattr(model, f"to_{kind}")(tmp_path)
    assert other.read_bytes() == b"somebody else's"
    assert list(other.parent.iterdir()) == [other]


def test_earlier_export_is_replaced_and_files_beside_it_are_left(tmp_path):
    path = make_model().to_torch(tmp_path)
    before = path.read_bytes()
    beside = path.with_name("another.pt")
    beside.write_bytes(b"somebody else's")
    assert make_model(smooth=False).to_torch(tmp_path) == path
    assert path.read_bytes() != before
    assert "model" in torch.load(path, weights_only=False)
    with pytest.raises(OutputError, match=r"another\.pt"):
        make_model().to_torch(tmp_path, "another")
    assert beside.read_bytes() == b"somebody else's"


def test_failed_export_leaves_no_claim_to_the_name(tmp_path, monkeypatch):
    def fail(obj, f):
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        make_model().to_torch(tmp_path)
    folder = tmp_path / "weights" / "torch"
    assert not (folder / RECORD_NAME).exists()
    (folder / "model.pt").write_bytes(b"somebody else's")
    with pytest.raises(OutputError, match=r"model\.pt"):
        make_model().to_torch(tmp_path)


def test_failed_export_leaves_the_earlier_one_whole(tmp_path, monkeypatch):
    path = make_model().to_torch(tmp_path)
    before, save = path.read_bytes(), torch.save

    def fill_the_disk(obj, f):
        save(obj, f)
        Path(f).write_bytes(Path(f).read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        make_model().to_torch(tmp_path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.part"))
    monkeypatch.undo()
    assert make_model().to_torch(tmp_path) == path


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        make_model().to_torch(tmp_path / "out")
