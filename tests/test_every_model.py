"""Every module of the package that holds weights is held to the same contract."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.export import ExportableDetector
from dual_image_clip.method import DualPathEncoder
from tests.drawn_data import make_photos
from tests.helpers import assert_same, random_images, tiny_model, unit_vectors
from tests.testers import ModelTester

pytestmark = pytest.mark.open_clip


def make_detector(seed: int, **arguments: Any) -> DualImageCLIP:
    """A detector that knows its texts and golden images, all of which depend on the seed."""
    model = tiny_model(seed, class_name="plate", **arguments)
    model.model.text_embeddings.copy_(unit_vectors(2, 24, seed=seed))
    model.model.set_golden_images(random_images(model.golden.k_shot, 1, 3, 64, 64, seed=seed).unbind())
    return model


def images(count: int = 3, size: tuple[int, int] = (64, 112)) -> Tensor:
    return random_images(count, 3, *size, seed=9)


class DetectorTester(ModelTester):
    arguments: ClassVar[dict[str, Any]]
    half_tolerance = 0.2

    def make(self, seed: int = 0) -> DualImageCLIP:
        return make_detector(seed, **self.arguments)

    def run(self, model: DualImageCLIP) -> tuple[Tensor, ...]:
        model.model.reset()
        scored = [model.model(images()), model.model(images(1))]
        return tuple(tensor for each in scored for tensor in (each.pred_score, each.anomaly_map))

    def run_on(self, model: DualImageCLIP, images: Tensor) -> Any:
        return model.model(images)


class TestPaper(DetectorTester):
    arguments: ClassVar = {"temperature": 0.1}
    # An adapter may lead elsewhere from a start that differs in its last digits.
    half_tolerance = 1.0


class TestWithoutAdaptation(DetectorTester):
    arguments: ClassVar = {"temperature": 0.1, "adaptation_steps": 0, "num_references": 2, "aggregation": "median"}


class TestTextAlone(DetectorTester):
    arguments: ClassVar = {"temperature": 0.1, "adaptation_steps": 0, "num_references": 0}


class TestEncoder(ModelTester):
    def make(self, seed: int = 0) -> DualPathEncoder:
        return make_detector(seed).model.encoder

    def run(self, model: DualPathEncoder) -> tuple[Tensor, ...]:
        return (*model(images()), model.patch_tokens(images()))


class TestExport(ModelTester):
    half_tolerance = 1.0

    def make(self, seed: int = 0) -> ExportableDetector:
        model = make_detector(seed, temperature=0.1, num_references=0, threshold=0.3)
        return ExportableDetector(model.model, model.pre_processor, model.post_processor, None)

    def run(self, model: ExportableDetector) -> tuple[Tensor, ...]:
        found = model(images().sigmoid())
        return found.pred_score, found.anomaly_map


def test_golden_images_travel_with_the_state(tmp_path: Path):
    """Their number is no part of the architecture, so they come with the weights."""
    good = make_photos(tmp_path, normal=4, defective=0)
    model, fresh = (make_detector(seed, k_shot=2, few_shot_source=good) for seed in (0, 1))
    fresh.load_state_dict(model.state_dict())
    assert_same(fresh.model(images()), model.model(images()), 0)
