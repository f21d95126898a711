"""Exported files, made by anomalib's Engine and run by onnxruntime, OpenVINO and anomalib's inferencers."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.export import set_threshold
from dual_image_clip.export.fixed_pseudo_anomaly import fixed_pseudo_anomaly
from dual_image_clip.photos import RECORD_NAME
from dual_image_clip.prediction import LOCK_NAME, OutputError
from tests.drawn_data import draw_plate, make_photos
from tests.helpers import assert_same, make_engine, make_model, predict, tiny_model

# OpenVINO computes in bfloat16 by default where a processor can.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


def export(model: DualImageCLIP, folder: Path, export_type: str, **arguments) -> Path:
    path = make_engine(folder, logger=False).export(model, export_type=export_type, export_root=folder, **arguments)
    assert path == folder / "weights" / export_type / path.name
    return path


def drawn_images(count: int, size: tuple[int, int]) -> Tensor:
    """Plates, the first one with a defect, ``(count, 3, H, W)`` in 0..1."""
    plates = [draw_plate(50 + index, size, defect=None if index else "spot")[0] for index in range(count)]
    return torch.from_numpy(np.stack(plates)).permute(0, 3, 1, 2).float() / 255


def run_onnx(path: Path, images: Tensor) -> InferenceBatch:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return InferenceBatch(**{name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)})


def run_openvino(path: Path, images: Tensor) -> InferenceBatch:
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    found = compiled({0: images.numpy()})
    return InferenceBatch(**{next(iter(output.names)): torch.from_numpy(found[output]) for output in compiled.outputs})


def lightning_scores(model: DualImageCLIP, images: Tensor) -> InferenceBatch:
    """What the model itself says, with the pseudo anomaly of an exported file, scaled as its post-processor does."""
    images = model.pre_processor.transform(images)
    size = (images.shape[-2], images.shape[-1])
    generator = model.model.pseudo_anomalies
    # Wrapped, because a module could not be replaced by the generator again.
    model.model.pseudo_anomalies = SimpleNamespace(draw=fixed_pseudo_anomaly(generator, size).draw)
    score, _, heat, _ = model.model(images)
    model.model.pseudo_anomalies = generator
    scale = model.post_processor
    return InferenceBatch(pred_score=score / scale.score_maximum, anomaly_map=heat / scale.map_maximum)


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("golden"), normal=3, defective=0)


def small_model(golden: Path | None, **arguments) -> DualImageCLIP:
    settings = {"temperature": 0.1, "num_references": 0, "threshold": 0.3, "k_shot": 2 if golden else 0}
    return tiny_model(few_shot_source=golden, **{**settings, **arguments})


@pytest.fixture(scope="module")
def adapted(golden, tmp_path_factory) -> tuple[DualImageCLIP, Path]:
    """The demo checkpoint with all its parts, as one ONNX file for images of 240×240."""
    model = make_model(class_name="plate", num_references=0, k_shot=2, few_shot_source=golden, threshold=0.4)
    return model, export(model, tmp_path_factory.mktemp("adapted"), "onnx")


@pytest.fixture(scope="module")
def tiles(golden, tmp_path_factory) -> tuple[DualImageCLIP, Path]:
    """A tiny tower, adaptation and images of 100×150, which become two tiles."""
    model = small_model(golden, learning_rate=0.01, aggregation="median", peak_share=0.1)
    return model, export(model, tmp_path_factory.mktemp("tiles"), "onnx", input_size=(100, 150))


@pytest.fixture(scope="module")
def enlarged(golden, tmp_path_factory) -> tuple[DualImageCLIP, Path]:
    """The same at another resolution than the tower's own, two larger tiles."""
    model = small_model(golden, learning_rate=0.01, image_size=96)
    return model, export(model, tmp_path_factory.mktemp("enlarged"), "onnx", input_size=(100, 150))


@pytest.fixture(scope="module")
def inspected(golden, tmp_path_factory) -> tuple[DualImageCLIP, Path]:
    """The same tiny tower, of whose images the left two thirds are inspected."""
    folder = tmp_path_factory.mktemp("inspected")
    region = folder / "region.json"
    region.write_text('{"polygons": [[[0, 0], [0.66, 0], [0.66, 1], [0, 1]]]}')
    model = small_model(golden, learning_rate=0.01, regions=region)
    return model, export(model, folder, "onnx", input_size=(100, 150))


@pytest.fixture(scope="module")
def plain(golden, tmp_path_factory) -> tuple[DualImageCLIP, Path]:
    """The demo checkpoint without adaptation, as an OpenVINO file for images of 300×300."""
    settings = {"num_references": 0, "k_shot": 2, "few_shot_source": golden, "threshold": 0.4, "adaptation_steps": 0}
    model = make_model(**settings)
    return model, export(model, tmp_path_factory.mktemp("plain"), "openvino", input_size=(300, 300))


@pytest.fixture(params=["adapted", "tiles", "enlarged", "inspected"])
def onnx_file(request) -> tuple[DualImageCLIP, Path, Tensor]:
    model, path = request.getfixturevalue(request.param)
    return model, path, drawn_images(3, (240, 240) if request.param == "adapted" else (100, 150))


@pytest.mark.open_clip
@pytest.mark.parametrize("run", [run_onnx, run_openvino], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3])
def test_onnx_file_scores_as_the_model(onnx_file, run, count):
    model, path, images = onnx_file
    found = run(path, images[:count])
    assert_same(found, lightning_scores(model, images[:count]), 1e-4)
    assert found.pred_label.dtype == found.pred_mask.dtype == torch.bool
    assert torch.equal(found.pred_label, found.pred_score > model.post_processor.threshold)


def test_adaptation_and_golden_images_are_in_the_file(onnx_file):
    model, path, images = onnx_file
    found = run_onnx(path, images[:1])
    tokens = model.model.golden_references
    try:
        model.model.golden_references = tokens.roll(1, dims=1)
        without_golden = lightning_scores(model, images[:1])
    finally:
        model.model.golden_references = tokens
    settings = model.model.adaptation
    try:
        model.model.adaptation = replace(settings, steps=0)
        without_adaptation = lightning_scores(model, images[:1])
    finally:
        model.model.adaptation = settings
    for other in (without_golden, without_adaptation):
        # A thousand times as much as the file differs from the model.
        assert (found.anomaly_map - other.anomaly_map).abs().max() > 0.001


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_file_inspects_the_region_alone(inspected, workspace, monkeypatch, kind):
    model, path = inspected
    images = drawn_images(2, (100, 150))
    if kind == "onnx":
        found = run_onnx(path, images)
    else:
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        found = TorchInferencer(export(model, workspace, "torch"), device="cpu").model(images)
        assert_same(found, lightning_scores(model, images), 1e-4)
    inside = round(0.66 * found.anomaly_map.shape[-1])
    assert (found.anomaly_map[..., : inside - 1] > 0).all()
    assert not found.anomaly_map[..., inside + 1 :].any()


def test_regions_that_no_file_can_hold_are_refused(golden, workspace):
    picture = Image.new("L", (150, 100), 255)
    (workspace / "masks").mkdir()
    picture.save(workspace / "masks" / "plate_000.png")
    picture.save(workspace / "region.png")
    with pytest.raises(ValueError, match=r"masks.*has a mask for each photo, but images have no names"):
        export(small_model(golden, regions=workspace / "masks"), workspace, "onnx", input_size=(100, 150))
    with pytest.raises(ValueError, match="another aspect than its region"):
        export(small_model(golden, regions=workspace / "region.png"), workspace, "onnx", input_size=(150, 100))
    assert not (workspace / "weights").exists()


def test_file_is_one_and_has_a_free_batch_size(adapted):
    _, path = adapted
    assert {each.name for each in path.parent.iterdir()} == {path.name, RECORD_NAME, LOCK_NAME}
    shape = onnxruntime.InferenceSession(path).get_inputs()[0].shape
    assert isinstance(shape[0], str)
    assert shape[1:] == [3, 240, 240]


def test_openvino_inferencer_reads_image_files_and_scores_as_the_engine(plain, workspace):
    model, path = plain
    photos = make_photos(workspace / "photos", normal=2, defective=1, size=(300, 300))
    inferencer = OpenVINOInferencer(path, config=EXACT)
    expected = predict(model, workspace, data_path=photos)
    assert len(expected) == 3
    for path, item in expected.items():
        found = inferencer.predict(path)
        assert found.anomaly_map.shape == (1, 240, 240)
        np.testing.assert_allclose(found.anomaly_map[0], item.anomaly_map, atol=1e-4)
        np.testing.assert_allclose(found.pred_score, item.pred_score, atol=1e-4)
        assert found.pred_label.tolist() == [bool(item.pred_label)]


def test_openvino_inferencer_reads_the_onnx_file(adapted, workspace):
    model, path = adapted
    photo = make_photos(workspace, normal=0, size=(240, 240)) / "spoilt_000.png"
    found = OpenVINOInferencer(path, config=EXACT).predict(photo)
    expected = lightning_scores(model, read_image(photo, as_tensor=True).unsqueeze(0))
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-4)


@pytest.mark.open_clip
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("size", [(80, 80), (100, 150)], ids=["square", "tiles"])
def test_torch_inferencer_reads_image_files_of_any_size(golden, workspace, monkeypatch, size, steps):
    model = small_model(golden, adaptation_steps=steps)
    path = export(model, workspace, "torch")
    photo = make_photos(workspace, normal=0, size=size) / "spoilt_000.png"
    with pytest.raises(ValueError, match="TRUST_REMOTE_CODE"):
        TorchInferencer(path, device="cpu")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    found = TorchInferencer(path, device="cpu").predict(photo)
    expected = lightning_scores(model, found.image)
    assert_same(found, expected, 1e-4)
    assert bool(found.pred_label) == bool(found.pred_score > 0.3)


def test_half_precision_weights_stay_within_a_thousandth(golden, workspace, caplog):
    model = small_model(golden, adaptation_steps=0)
    with caplog.at_level(logging.WARNING):
        path = export(model, workspace, "openvino", input_size=(100, 150), compression_type="fp16")
    assert "INFERENCE_PRECISION_HINT" in caplog.text
    images = drawn_images(2, (100, 150))
    found = run_openvino(path, images)
    assert_same(found, lightning_scores(model, images), 1e-3)
    full = sum(each.numel() for each in model.model.encoder.parameters()) * 4
    assert path.with_suffix(".bin").stat().st_size < 0.7 * full
    assert_threshold_can_be_changed(path, run_openvino, images[:1])
    assert path.with_suffix(".bin").stat().st_size < 0.7 * full


# The threshold of a file


def run_openvino_inferencer(path: Path, images: Tensor) -> InferenceBatch:
    return in_tensors(OpenVINOInferencer(path, config=EXACT).predict(images[0]))


def run_torch_inferencer(path: Path, images: Tensor) -> InferenceBatch:
    return in_tensors(TorchInferencer(path, device="cpu").predict(images[0]))


def in_tensors(found) -> InferenceBatch:
    return InferenceBatch(**{name: torch.as_tensor(np.asarray(getattr(found, name))) for name in OUTPUTS})


def assert_threshold_can_be_changed(path: Path, run: Callable[[Path, Tensor], InferenceBatch], images: Tensor):
    """Moves the thresholds of a file around what it says about an image."""
    before = run(path, images)
    score, heat = before.pred_score.item(), before.anomaly_map

    def after(threshold: float, map_threshold: float | None = None) -> InferenceBatch:
        set_threshold(path, threshold, map_threshold)
        found = run(path, images)
        assert_same(found, before, 1e-6)
        return found

    below = after(score - 0.01)
    assert below.pred_label.all()
    # Each pixel has a share of the score, the hottest all of it.
    shares = heat / heat.max() * score
    assert torch.equal(below.pred_mask, shares > score - 0.01)
    assert 0 < below.pred_mask.sum() < heat.numel()
    above = after(score + 0.01)
    assert not above.pred_label.any()
    assert not above.pred_mask.any()
    # A threshold of their own makes pixels independent of the label.
    middle = heat.median().item()
    own = after(1, middle)
    assert not own.pred_label.any()
    assert torch.equal(own.pred_mask, heat > middle)


@pytest.mark.parametrize(
    ("kind", "run"),
    [
        ("tiles", run_onnx),
        ("tiles", run_openvino),
        ("plain", run_openvino),
        ("plain", run_openvino_inferencer),
    ],
    ids=["onnx", "onnx by openvino", "openvino", "openvino by inferencer"],
)
def test_threshold_of_a_graph_is_changed_in_the_file(kind, run, request, workspace):
    _, exported = request.getfixturevalue(kind)
    for each in exported.parent.glob(f"{exported.stem}.*"):
        shutil.copy(each, workspace)
    images = drawn_images(1, (300, 300) if kind == "plain" else (100, 150))
    assert_threshold_can_be_changed(workspace / exported.name, run, images)


def test_threshold_of_a_torch_file_is_changed_in_the_file(golden, workspace, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    # Without any threshold, no image is called anomalous until one is set.
    path = export(small_model(golden, adaptation_steps=0, threshold=None), workspace, "torch")
    images = drawn_images(1, (100, 150))
    assert not run_torch_inferencer(path, images).pred_label.any()
    assert_threshold_can_be_changed(path, run_torch_inferencer, images)


def test_fresh_model_knows_its_class_name_and_says_what_is_missing(workspace, caplog):
    with caplog.at_level(logging.WARNING):
        model = small_model(None, adaptation_steps=0, class_name="metal nut")
        export(model, workspace, "torch")
    assert "no golden images" in caplog.text
    assert model.class_name == "metal nut"
    named = model.model.text_embeddings.clone()
    unnamed = small_model(None, adaptation_steps=0)
    export(unnamed, workspace, "torch")
    assert unnamed.class_name == "object"
    assert not torch.equal(unnamed.model.text_embeddings, named)


def test_export_of_another_model_is_not_replaced(golden, workspace):
    other = workspace / "weights" / "torch" / "model.pt"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another model")
    with pytest.raises(OutputError, match=r"model\.pt is there already"):
        export(small_model(golden), workspace, "torch")
    assert other.read_bytes() == b"another model"
    other.rename(workspace / "other.pt")
    assert export(small_model(golden), workspace, "torch") == other
    assert export(small_model(golden), workspace, "torch") == other
