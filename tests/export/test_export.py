"""The exportable detector in eager mode, its parts, and what is refused."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib.deploy import CompressionType, ExportType
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from dual_image_clip import DualImageCLIP
from dual_image_clip.export.detector import ExportableDetector, require_exportable
from dual_image_clip.export.fixed_pseudo_anomaly import fixed_pseudo_anomaly
from dual_image_clip.export.fixed_transform import FixedResize, fixed_transform
from dual_image_clip.method import PseudoAnomalyGenerator

TINY, SIZE = "tiny-vit", (64, 64)
LOGGER = "dual_image_clip.export.detector"


def some_images(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size, mode="bicubic")
    return (coarse + 0.1 * torch.rand(count, 3, *size, generator=generator)).clamp(0, 1)


def make_model(golden: int = 2, size: tuple[int, int] = SIZE, **arguments) -> DualImageCLIP:
    """A tiny model that is told all it needs; its golden images are those of the seeds from 100 on."""
    torch.manual_seed(0)
    defaults = {"class_name": "metal nut", "backbone": TINY, "pretrained": None, "num_references": 0}
    model = DualImageCLIP(**{**defaults, "temperature": 0.1, "learning_rate": 0.01, **arguments})
    with torch.no_grad():
        for weight in model.model.encoder.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.set_class_name("metal nut")
    model.model.set_golden_images(model.pre_process(some_images(1, size, 100 + index)) for index in range(golden))
    return model


def make_detector(model: DualImageCLIP, size: tuple[int, int] | None = SIZE) -> ExportableDetector:
    return ExportableDetector(model.model, model.pre_processor, model.post_processor, size)


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# The fixed pseudo anomaly


@pytest.mark.parametrize("size", [(64, 64), (64, 97), (130, 80)])
@pytest.mark.parametrize("seed", range(8))
def test_fixed_pseudo_anomaly_is_the_generators_first_one(size, seed):
    image = some_images(1, size, seed)
    fixed = fixed_pseudo_anomaly(PseudoAnomalyGenerator(None, seed), size)(image)
    expected = PseudoAnomalyGenerator(None, seed)(image)
    assert torch.equal(fixed.masks, expected.masks)
    assert_same(fixed.images, expected.images, 1e-4)
    assert (fixed.images - image).abs().max() > 0.01


@pytest.fixture
def textures(tmp_path):
    for index in range(3):
        pixels = (255 * some_images(1, (50, 70), 50 + index)[0].permute(1, 2, 0)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("seed", range(4))
def test_fixed_pseudo_anomaly_of_a_texture_folder_is_the_generators_first_one(textures, seed):
    image = some_images(1, (64, 97))
    fixed = fixed_pseudo_anomaly(PseudoAnomalyGenerator(textures, seed), (64, 97))(image)
    expected = PseudoAnomalyGenerator(textures, seed)(image)
    assert torch.equal(fixed.masks, expected.masks)
    assert_same(fixed.images, expected.images)


@pytest.mark.parametrize("with_folder", [False, True])
def test_fixed_pseudo_anomaly_treats_all_images_alike_and_leaves_the_generator_alone(textures, with_folder):
    generator = PseudoAnomalyGenerator(textures if with_folder else None, 5)
    generator(some_images(2))
    untouched, images, state = copy.deepcopy(generator), some_images(3), torch.get_rng_state()
    fixed = fixed_pseudo_anomaly(generator, SIZE)
    together = fixed(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert together.masks.shape == (3, 1, *SIZE)
    for index in range(3):
        assert_same(together.images[index], fixed(images[index : index + 1]).images[0], 1e-6)
    assert torch.equal(generator(images).images, untouched(images).images)


# The fixed transform


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (150, 100), (20, 33), (300, 280)])
@pytest.mark.parametrize(
    "transform",
    [
        Resize(64, antialias=True),
        Resize((48, 80), antialias=False),
        Resize(64, interpolation=InterpolationMode.BICUBIC, antialias=True),
        Compose([Compose([Resize((80, 90)), CenterCrop((70, 64))]), Resize(32), Normalize([0.4] * 3, [0.2, 0.3, 0.4])]),
    ],
    ids=["short side", "both sides", "bicubic", "nested"],
)
def test_fixed_transform_does_what_the_transform_does(transform, size):
    images = some_images(2, size)
    assert_same(fixed_transform(transform, size)(images), transform(images))


def test_fixed_transform_leaves_out_what_does_nothing():
    assert not any(isinstance(step, FixedResize) for step in fixed_transform(Resize(64), SIZE))
    images = some_images(1)
    assert fixed_transform(None, SIZE)(images) is images


# The detector


@pytest.mark.parametrize("size", [SIZE, (100, 150)], ids=["square", "tiles"])
@pytest.mark.parametrize("fixed", [True, False], ids=["graph", "any size"])
@pytest.mark.parametrize("golden", [0, 1, 3])
@pytest.mark.parametrize("steps", [0, 2])
def test_detector_is_the_model_with_the_same_pseudo_anomaly(size, fixed, golden, steps):
    model = make_model(golden, size, adaptation_steps=steps, aggregation="median", threshold=0.3)
    detector, images = make_detector(model, size if fixed else None), some_images(3, size)
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
    image = some_images(1)
    model.model.reset()
    expected = model.model(model.pre_process(image))
    found = make_detector(model)(image)
    assert_same(found.anomaly_map, expected.anomaly_map / model.post_processor.map_maximum, 1e-3)


def test_golden_images_and_adaptation_count():
    image = some_images(1)
    with_both, other_golden, without_golden, without_steps = (
        make_detector(make_model(**arguments))(image).anomaly_map
        for arguments in ({}, {"golden": 1}, {"golden": 0}, {"adaptation_steps": 0})
    )
    for other in (other_golden, without_golden, without_steps):
        assert (with_both - other).abs().max() > 0.005


def test_images_of_a_batch_and_those_before_do_not_count():
    detector, images = make_detector(make_model()), some_images(3)
    together = detector(images)
    for index in reversed(range(3)):
        assert_same(together.anomaly_map[index], detector(images[index : index + 1]).anomaly_map[0])


def test_partners_are_no_references_of_a_detector():
    model, images = make_model(num_references=1, adaptation_steps=0), some_images(2)
    model.model(model.pre_process(images))
    alone = make_model(num_references=0, adaptation_steps=0)
    assert_same(make_detector(model)(images).anomaly_map, make_detector(alone)(images).anomaly_map, 1e-7)


def test_model_is_left_as_it_was():
    images, model = some_images(2), make_model(num_references=1)
    untouched = copy.deepcopy(model.model)
    make_detector(model)(images)
    again, expected = model.model(model.pre_process(images)), untouched(model.pre_process(images))
    assert torch.equal(again.anomaly_map, expected.anomaly_map)
    assert make_detector(model).model.encoder is model.model.encoder


def test_detector_without_components_gives_the_raw_scores():
    model = make_model(adaptation_steps=0)
    images = model.pre_process(some_images(1))
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
    images = some_images(4)
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
        assert not make_detector(make_model(adaptation_steps=0))(some_images(2)).pred_label.any()
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


@pytest.fixture
def no_work(monkeypatch):
    """Makes a model fail where it starts to work, from the moment this is called."""

    def refuse(*args, **kwargs):
        raise AssertionError

    def forbid():
        for name in ("_encode_class_name", "load_golden_images"):
            monkeypatch.setattr(DualImageCLIP, name, refuse)

    return forbid


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
