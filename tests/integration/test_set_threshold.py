"""The threshold of an exported file, changed without a new export, as whatever runs the file sees it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from anomalib.deploy import OpenVINOInferencer, TorchInferencer

from dual_image_clip.export import set_threshold
from tests.drawn_data import make_photos
from tests.helpers import cloudy_images, make_engine, tiny_model

SIZE = (64, 64)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
PHOTO = cloudy_images(1, SIZE, 77)[0]


def by_inferencer(inferencer) -> dict[str, np.ndarray]:
    found = inferencer.predict(PHOTO)
    names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    return {name: np.asarray(getattr(found, name)).squeeze() for name in names}


def by_onnxruntime(path: Path) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]
    found = session.run(None, {"input": PHOTO[None].numpy()})
    return {name: each.squeeze() for name, each in zip(names, found, strict=True)}


def by_openvino(path: Path) -> dict[str, np.ndarray]:
    compiled = openvino.Core().compile_model(path, "CPU", EXACT)
    found = compiled({0: PHOTO[None].numpy()})
    return {next(iter(each.names)): found[each].squeeze() for each in compiled.outputs}


RUNNERS: dict[str, tuple[str, Callable[[Path], dict[str, np.ndarray]], dict]] = {
    "onnxruntime": ("onnx", by_onnxruntime, {}),
    "openvino": ("openvino", by_openvino, {}),
    "openvino-fp16": ("openvino", by_openvino, {"compression_type": "fp16"}),
    "openvino-inferencer": ("openvino", lambda path: by_inferencer(OpenVINOInferencer(path, config=EXACT)), {}),
    "torch-inferencer": ("torch", lambda path: by_inferencer(TorchInferencer(path, device="cpu")), {}),
}


@pytest.fixture
def export(workspace, monkeypatch) -> Callable[..., Path]:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    golden = make_photos(workspace / "golden", normal=2, defective=0)
    settings = {"k_shot": 2, "few_shot_source": golden, "temperature": 0.1, "num_references": 0}

    def export(kind: str, threshold: float | None = None, **arguments) -> Path:
        model = tiny_model(class_name="metal nut", threshold=threshold, adaptation_steps=0, **settings)
        size = {} if kind == "torch" else {"input_size": SIZE}
        return make_engine(workspace, logger=False).export(
            model, export_type=kind, export_root=workspace, **size, **arguments
        )

    return export


@pytest.mark.parametrize("runner", RUNNERS)
def test_label_and_mask_follow_and_score_and_map_stay(runner, export):
    kind, run, arguments = RUNNERS[runner]
    path = export(kind, **arguments)
    before = run(path)
    score, heat = before["pred_score"].item(), before["anomaly_map"]
    assert not before["pred_label"]
    assert not before["pred_mask"].any()

    def after(threshold: float, map_threshold: float | None = None) -> dict[str, np.ndarray]:
        set_threshold(path, threshold, map_threshold)
        found = run(path)
        np.testing.assert_array_equal(found["pred_score"], before["pred_score"])
        np.testing.assert_array_equal(found["anomaly_map"], heat)
        return found

    below = after(score - 1e-4)
    assert below["pred_label"]
    # The hottest pixel has the score itself.
    np.testing.assert_array_equal(below["pred_mask"], heat * (score / heat.max()) > score - 1e-4)
    assert 0 < below["pred_mask"].sum() < heat.size
    above = after(score + 1e-4)
    assert not above["pred_label"]
    assert not above["pred_mask"].any()
    # Pixels with a threshold of their own do not depend on the label.
    middle = float(np.median(heat))
    own = after(1, middle)
    assert not own["pred_label"]
    np.testing.assert_array_equal(own["pred_mask"], heat > np.float32(middle))
