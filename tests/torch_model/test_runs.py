"""What a run does, forgets and leaves behind."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dual_image_clip.torch_model import DualImageCLIPModel
from tests.helpers import assert_same
from tests.torch_model.tiny import build, names, some_images


def count_passes(model: DualImageCLIPModel) -> list[int]:
    """Number of images in each pass of the tower from now on."""
    passes: list[int] = []
    model.encoder.visual.conv1.register_forward_hook(lambda _module, inputs, _output: passes.append(len(inputs[0])))
    return passes


@pytest.mark.parametrize(("steps", "expected"), [(0, 1), (1, 2), (2, 2), (6, 2)])
@pytest.mark.parametrize(("size", "tiles"), [((64, 64), 1), ((64, 96), 2)], ids=str)
def test_tower_runs_once_and_once_more_to_adapt(tiny_clip, steps, expected, size, tiles):
    model = build(tiny_clip, steps=steps)
    passes = count_passes(model)
    model(some_images(3, size), names(3))
    assert passes == [3 * tiles] * expected
    # A lone image is compared with one that was encoded already.
    model(some_images(1, size), ["another.png"])
    assert passes == [3 * tiles] * expected + [tiles] * expected


@pytest.mark.parametrize("settings", [{"references": 1}, {"references": 2, "steps": 0}], ids=str)
def test_reset_repeats_a_run_bit_for_bit(tiny_clip, settings):
    model = build(tiny_clip, **settings)

    def run() -> list:
        batches = [4, 1, 3, 1]
        return [model(some_images(count, seed=index), names(count, 10 * index)) for index, count in enumerate(batches)]

    first = run()
    torch.manual_seed(17)
    model.reset()
    for one, two in zip(first, run(), strict=True):
        assert_same(one, two, 0)
    # Without a reset, pairs and pseudo anomalies are others.
    assert any(not torch.equal(one.pred_score, two.pred_score) for one, two in zip(first, run(), strict=True))


def test_another_seed_gives_another_start(tiny_clip):
    one, two = (build(tiny_clip, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.adapter_weight, two.adapter_weight)


def test_two_hundred_batches_leave_nothing_behind(tiny_clip):
    model = build(tiny_clip)

    def run(first: int, count: int) -> None:
        for index in range(first, first + count):
            predictions = model(some_images(2, seed=index), names(2, 2 * index))
            assert predictions.anomaly_map.grad_fn is None
            assert predictions.pred_score.grad_fn is None

    def live_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    def resident_bytes() -> int:
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0

    run(0, 20)
    tensors, memory = live_tensors(), resident_bytes()
    run(20, 200)
    assert live_tensors() <= tensors
    # Two images have 98 kB, and the tower's graph for them has more.
    assert resident_bytes() - memory < 200 * 50_000
