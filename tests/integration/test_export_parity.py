"""Exported files, fed as docs/line.md says, against what the engine says about the same photos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import ExifTags, Image
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.photos import PhotoReader
from tests.drawn_data import draw_plate, make_photos
from tests.helpers import make_engine, predict, tiny_model

SIZE = (100, 150)
QUARTER_TURN = 6
Runner = Callable[[Tensor], tuple[float, np.ndarray, bool]]


def draw_photo() -> Image.Image:
    return Image.fromarray(draw_plate(5000, SIZE, "spot")[0])


def draw_deep_photo() -> Image.Image:
    return Image.fromarray(np.asarray(draw_photo().convert("L")).astype(np.uint16) * 257)


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = QUARTER_TURN
    draw_photo().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


def save_transparent(path: Path) -> None:
    photo = draw_photo().convert("RGBA")
    photo.paste((255, 0, 0, 0), (0, 0, 60, 60))
    photo.save(path)


def save_behind_thumbnail(path: Path) -> None:
    """A second page; the first one is too small to be scored."""
    draw_photo().resize((15, 10)).save(path, save_all=True, append_images=[draw_photo()])


PHOTOS = {
    "deep.png": lambda path: draw_deep_photo().save(path),
    "deep.tif": lambda path: draw_deep_photo().save(path),
    "turned.jpg": save_turned,
    "transparent.png": save_transparent,
    "pages.tif#2": save_behind_thumbnail,
    "oblong.png": lambda path: draw_photo().save(path),
}


def run_torch(path: Path) -> Runner:
    inferencer = TorchInferencer(path, device="cpu")

    def run(photo: Tensor) -> tuple[float, np.ndarray, bool]:
        found = inferencer.predict(photo)
        return found.pred_score.item(), found.anomaly_map.squeeze().numpy(), found.pred_label.item()

    return run


def run_openvino(path: Path) -> Runner:
    inferencer = OpenVINOInferencer(path, config={"INFERENCE_PRECISION_HINT": "f32"})

    def run(photo: Tensor) -> tuple[float, np.ndarray, bool]:
        found = inferencer.predict(photo)
        return found.pred_score.item(), found.anomaly_map.squeeze(), found.pred_label.item()

    return run


def run_onnx(path: Path) -> Runner:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [output.name for output in session.get_outputs()]

    def run(photo: Tensor) -> tuple[float, np.ndarray, bool]:
        found = dict(zip(names, session.run(None, {"input": photo.unsqueeze(0).numpy()}), strict=True))
        return found["pred_score"].item(), found["anomaly_map"].squeeze(), found["pred_label"].item()

    return run


RUNNERS = {"torch": run_torch, "onnx": run_onnx, "openvino": run_openvino}
PACKAGES = {"torch": (), "onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino")}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> DualImageCLIP:
    golden = make_photos(tmp_path_factory.mktemp("golden"), normal=3, defective=0)
    settings = {"temperature": 0.1, "num_references": 0, "threshold": 0.3, "learning_rate": 0.01}
    return tiny_model(k_shot=2, few_shot_source=golden, **settings)


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request, model, tmp_path_factory) -> Runner:
    """What runs the exported file of the model."""
    kind = request.param
    for package in PACKAGES[kind]:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp(kind)
    arguments = {} if kind == "torch" else {"input_size": SIZE}
    path = make_engine(folder, logger=False).export(model, export_type=kind, export_root=folder, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUST_REMOTE_CODE", "1")
        # Where OpenVINO's inferencer puts its cache.
        patch.chdir(folder)
        return RUNNERS[kind](path)


def assert_agree(found: tuple[float, np.ndarray, bool], item) -> None:
    score, heat, label = found
    np.testing.assert_allclose(score, item.pred_score.item(), atol=1e-3)
    np.testing.assert_allclose(heat, item.anomaly_map.squeeze().numpy(), atol=1e-3)
    assert label == bool(item.pred_label)
    # A photo read as white, or as black, would have a map without a place.
    assert heat.max() - heat.min() > 0.02


@pytest.mark.parametrize("name", PHOTOS)
def test_photo_is_scored_as_by_the_engine(model, runner, workspace, name):
    photo = workspace / name
    file = workspace / name.partition("#")[0]
    PHOTOS[name](file)
    # In a run of its own, as the pseudo anomaly of a file is the first one of a run.
    (item,) = predict(model, workspace, data_path=file).values()
    assert item.image_path == str(photo)
    assert_agree(runner(PhotoReader().read(photo)), item)


def test_torch_file_takes_strips(model, workspace, monkeypatch):
    strip = workspace / "strip.png"
    Image.fromarray(draw_plate(7, (64, 300), "scratch")[0]).save(strip)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = make_engine(workspace, logger=False).export(model, export_type="torch", export_root=workspace)
    (item,) = predict(model, workspace, data_path=strip).values()
    assert_agree(run_torch(path)(PhotoReader().read(strip)), item)
