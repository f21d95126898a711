"""The exportable detector in eager mode, and what is refused."""

import copy
import logging

import pytest
import torch
from anomalib.deploy import CompressionType, ExportType
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

from dual_image_clip import DualImageCLIP
from dual_image_clip.export import ExportableDetector
from dual_image_clip.export.detector import require_exportable
from dual_image_clip.export.fixed_pseudo_anomaly import fixed_pseudo_anomaly
from tests.helpers import assert_same, cloudy_images, tiny_model

SIZE = (64, 64)
LOGGER = "dual_image_clip.export.detector"


def make_model(golden: int = 2, size: tuple[int, int] = SIZE, **arguments) -> DualImageCLIP:
    """A tiny model that is told all it needs; its golden images are those of the seeds from 100 on."""
    settings = {"class_name": "metal nut", "num_references": 0, "temperature": 0.1, "learning_rate": 0.01}
    model = tiny_model(**{**settings, **arguments})
    model.set_class_name("metal nut")
    model.model.set_golden_images(model.pre_process(cloudy_images(1, size, 100 + index)) for index in range(golden))
    return model


def make_detector(model: DualImageCLIP, size: tuple[int, int] | None = SIZE) -> ExportableDetector:
    return ExportableDetector(model.model, model.pre_processor, model.post_processor, size)


@pytest.mark.parametrize("size", [SIZE, (100, 150)], ids=["square", "tiles"])
@pytest.mark.parametrize("fixed", [True, False], ids=["graph", "any size"])
@pytest.mark.parametrize("golden", [0, 1, 3])
@pytest.mark.parametrize("steps", [0, 2])
def test_detector_is_the_model_with_the_same_pseudo_anomaly(size, fixed, golden, steps):
    model = make_model(golden, size, adaptation_steps=steps, aggregation="median", threshold=0.3)
    detector, images = make_detector(model, size if fixed else None), cloudy_images(3, size)
    found = detector(images)
    pre_processed = model.pre_processor.transform(images)
    model.model.pseudo_anomalies = fixed_pseudo_anomaly(model.model.pseudo_anomalies, tuple(pre_processed.shape[-2:]))
    expected = model.model(pre_processed)
    assert_same(found.anomaly_map, expected.anomaly_map / model.post_processor.map_maximum, 1e-4)
    assert_same(found.pred_score, expected.pred_score / model.post_processor.score_maximum, 1e-4)
    assert torch.equal(found.pred_label, found.pred_score > 0.3)
    assert found.pred_mask.shape == found.anomaly_map.shape


@pytest.mark.parametrize("steps", [0, 2])
def test_lone_image_of_a_run_is_scored_as_by_the_model_itself(steps):
    model = make_model(adaptation_steps=steps)
    image = cloudy_images(1)
    model.model.reset()
    expected = model.model(model.pre_process(image))
    found = make_detector(model)(image)
    assert_same(found.anomaly_map, expected.anomaly_map / model.post_processor.map_maximum, 1e-3)


def test_golden_images_and_adaptation_count():
    image = cloudy_images(1)
    with_both, other_golden, without_golden, without_steps = (
        make_detector(make_model(**arguments))(image).anomaly_map
        for arguments in ({}, {"golden": 1}, {"golden": 0}, {"adaptation_steps": 0})
    )
    for other in (other_golden, without_golden, without_steps):
        assert (with_both - other).abs().max() > 0.005


def test_images_of_a_batch_and_those_before_do_not_count():
    detector, images = make_detector(make_model()), cloudy_images(3)
    together = detector(images)
    for index in reversed(range(3)):
        assert_same(together.anomaly_map[index], detector(images[index : index + 1]).anomaly_map[0])


def test_partners_are_no_references_of_a_detector():
    model, images = make_model(num_references=1, adaptation_steps=0), cloudy_images(2)
    model.model(model.pre_process(images))
    alone = make_model(num_references=0, adaptation_steps=0)
    assert_same(make_detector(model)(images).anomaly_map, make_detector(alone)(images).anomaly_map, 1e-7)


def test_model_is_left_as_it_was():
    images, model = cloudy_images(2), make_model(num_references=1)
    untouched = copy.deepcopy(model.model)
    make_detector(model)(images)
    again, expected = model.model(model.pre_process(images)), untouched(model.pre_process(images))
    assert torch.equal(again.anomaly_map, expected.anomaly_map)
    assert make_detector(model).model.encoder.visual is model.model.encoder.visual


def test_detector_without_components_gives_the_raw_scores():
    model = make_model(adaptation_steps=0)
    images = model.pre_process(cloudy_images(1))
    found = ExportableDetector(model.model, None, None, SIZE)(images)
    assert_same(found.anomaly_map, model.model(images).anomaly_map)
    assert found.pred_label is None


def test_seed_draws_the_pseudo_anomaly():
    first, again, other = (make_detector(make_model(seed=seed)).model.pseudo_anomalies.masks for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Labels


def test_labels_follow_ground_truth_where_there_was_some_and_the_rule_elsewhere():
    model = make_model(adaptation_steps=0)
    images = cloudy_images(4)
    raw = ExportableDetector(model.model, model.pre_processor, None, SIZE)(images)
    post_processor = model.post_processor
    threshold = raw.pred_score.median()
    post_processor._image_threshold.fill_(threshold)
    assert torch.equal(make_detector(model)(images).pred_label, raw.pred_score > threshold)
    pixel_threshold = raw.anomaly_map.median()
    post_processor._pixel_threshold.fill_(pixel_threshold)
    assert torch.equal(make_detector(model)(images).pred_mask, raw.anomaly_map > pixel_threshold)


def test_it_is_said_when_no_threshold_is_known(caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        assert not make_detector(make_model(adaptation_steps=0))(cloudy_images(2)).pred_label.any()
    assert "set threshold" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, LOGGER):
        make_detector(make_model(threshold=0.4))
    assert not caplog.text


# What is said and refused


def test_missing_golden_images_are_a_warning(caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        make_detector(make_model(golden=0, threshold=0.4))
    assert "no golden images" in caplog.text


@pytest.mark.parametrize("weights", [{"lambda_2": 0}, {"lambda_3": 0, "lambda_5": 0}])
def test_visual_comparison_alone_needs_golden_images(weights):
    with pytest.raises(ValueError, match="k_shot"):
        make_detector(make_model(golden=0, **weights))
    make_detector(make_model(golden=1, **weights))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "openvino"])
def test_missing_package_is_named_with_the_extra_before_any_work(missing, no_work, monkeypatch, tmp_path):
    model = make_model()
    no_work()
    monkeypatch.setattr("dual_image_clip.export.detector.find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing}.*pip install 'dual-image-clip\[export\]'"):
        model.to_openvino(tmp_path / "out")
    if missing != "openvino":
        with pytest.raises(ModuleNotFoundError, match="export"):
            model.to_onnx(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    require_exportable(model.model, model.pre_processor, ExportType.TORCH)


@pytest.mark.parametrize("compression", [each for each in CompressionType if each != CompressionType.FP16])
def test_eight_bits_are_refused_before_any_work(compression, no_work, tmp_path):
    model = make_model()
    no_work()
    with pytest.raises(ValueError, match="fp16"):
        model.to_openvino(tmp_path / "out", compression_type=compression)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(64, 6400), (640, 9)], ids=["long", "thin"])
def test_impossible_sizes_are_refused_before_any_work(size, no_work, tmp_path):
    model = make_model()
    no_work()
    with pytest.raises(ValueError, match="tiles"):
        model.to_onnx(tmp_path, input_size=size)


def test_size_that_is_no_multiple_of_the_patches_is_refused_before_any_work(no_work, tmp_path):
    model = make_model(golden=0, pre_processor=PreProcessor(Resize((60, 64))))
    no_work()
    with pytest.raises(ValueError, match=r"60×64.*multiple"):
        model.to_onnx(tmp_path, input_size=(60, 64))


def test_texture_folder_is_refused_by_torch_only(textures, no_work, tmp_path):
    model = make_model(texture_dir=textures)
    for export_type in (ExportType.ONNX, ExportType.OPENVINO):
        require_exportable(model.model, model.pre_processor, export_type, SIZE)
    without = make_model(texture_dir=textures, adaptation_steps=0)
    require_exportable(without.model, without.pre_processor, ExportType.TORCH)
    no_work()
    with pytest.raises(ValueError, match="texture_dir"):
        model.to_torch(tmp_path / "out")


@pytest.mark.parametrize("fixed", [True, False], ids=["graph", "any size"])
def test_nothing_is_outside_the_region_where_ground_truth_has_another_zero(tmp_path, fixed):
    region = tmp_path / "region.json"
    region.write_text('{"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}')
    model = make_model(adaptation_steps=0, regions=region)
    # As anomalib scales: what lies on the threshold becomes 0.5, and a map of 0 something below.
    model.post_processor._pixel_threshold.fill_(0.01)
    found = make_detector(model, SIZE if fixed else None)(cloudy_images(2))
    assert (found.anomaly_map[..., :32] > 0).all()
    assert found.pred_mask[..., :32].any()
    assert not found.anomaly_map[..., 32:].any()
    assert not found.pred_mask[..., 32:].any()
