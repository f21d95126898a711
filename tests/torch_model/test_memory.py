"""Batches for which memory is short: the scores of the whole batch, in portions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dual_image_clip.torch_model
from dual_image_clip.method import NotEnoughMemoryError, fit_adapters
from dual_image_clip.torch_model import DualImageCLIPModel
from tests.helpers import assert_same, make_model, random_images
from tests.torch_model.tiny import Album, build, names, some_images

ROOT = Path(__file__).parents[2]
SIZES = [7, 1, 3]
SETTINGS = {
    "the paper": {},
    "three references": {"references": 3, "aggregation": "median"},
    "golden images": {"references": 1, "golden": 2},
    "no reference": {"references": 0},
}


def limit_adaptation(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Lets adapters fit so many images at a time at most; says how many were tried."""
    tried: list[int] = []

    def limited(start, task, settings):
        tried.append(len(task.tokens))
        if len(task.tokens) > most:
            msg = "CUDA out of memory. Tried to allocate 3.13 GiB."
            raise torch.OutOfMemoryError(msg)
        return fit_adapters(start, task, settings)

    monkeypatch.setattr(dual_image_clip.torch_model, "fit_adapters", limited)
    return tried


def limit_tower(model: DualImageCLIPModel, most: int) -> list[int]:
    """Lets the tower take so many tiles at a time at most; says how many were tried."""
    tried: list[int] = []

    def limited(_module, inputs):
        tried.append(len(inputs[0]))
        if len(inputs[0]) > most:
            msg = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
            raise RuntimeError(msg)

    model.encoder.visual.conv1.register_forward_pre_hook(limited)
    return tried


def run(model: DualImageCLIPModel, size: tuple[int, int] = (64, 64)) -> list:
    """Several batches, so that what a batch leaves behind counts, too."""
    firsts = [sum(SIZES[:index]) for index in range(len(SIZES))]
    album = Album(20, 21, 22, size=size)
    return [
        model(some_images(count, size, seed=first), names(count, first), album)
        for count, first in zip(SIZES, firsts, strict=True)
    ]


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_adaptation_in_portions_gives_the_scores_of_the_batch(tiny_clip, monkeypatch, settings, most):
    expected = run(build(tiny_clip, **settings))
    tried = limit_adaptation(monkeypatch, most)
    found = run(build(tiny_clip, **settings))
    assert max(tried) == 7
    for one, two in zip(found, expected, strict=True):
        assert_same(one, two, 1e-4)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(("size", "tiles"), [((64, 64), 1), ((64, 96), 2)], ids=str)
def test_tower_in_portions_gives_the_scores_of_the_batch(tiny_clip, size, tiles, steps):
    expected = run(build(tiny_clip, references=2, steps=steps), size)
    model = build(tiny_clip, references=2, steps=steps)
    tried = limit_tower(model, 3 * tiles)
    for one, two in zip(run(model, size), expected, strict=True):
        assert_same(one, two, 1e-4)
    assert max(tried) == 7 * tiles


def test_what_to_set_is_said_once(tiny_clip, monkeypatch, caplog):
    limit_adaptation(monkeypatch, 3)
    model = build(tiny_clip)
    run(model)
    run(model)
    (said,) = [record.getMessage() for record in caplog.records if "Memory" in record.getMessage()]
    assert "7 images" in said
    assert "eval_batch_size=3" in said


def test_one_image_that_does_not_fit_names_what_to_lower(tiny_clip, monkeypatch):
    limit_adaptation(monkeypatch, 0)
    with pytest.raises(NotEnoughMemoryError, match="adaptation_steps=0"):
        build(tiny_clip)(some_images(4), names(4))


def test_what_a_batch_shares_names_the_batch_size(tiny_clip, monkeypatch):
    model = build(tiny_clip)

    def select(*_):
        raise MemoryError

    monkeypatch.setattr(model.references, "select", select)
    with pytest.raises(NotEnoughMemoryError, match=r"4 images.*eval_batch_size"):
        model(some_images(4), names(4))


# What it may take more than it has when it starts: half of what the whole batch would, and twice what portions do.
REALLY_SHORT = """
import logging, resource, sys
from pathlib import Path
import torch
from tests.torch_model.test_memory import large_batch, small_model

logging.basicConfig(stream=sys.stdout)
torch.set_num_threads(1)
model, images = small_model(), large_batch()
model(images[:2])
model.reset()
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 100 * 2**20,) * 2)
torch.save(tuple(model(images)[::2]), sys.argv[1])
"""


def small_model() -> DualImageCLIPModel:
    model = make_model(class_name="gear")
    model.complete()
    return model.model


def large_batch() -> Tensor:
    return random_images(32, 3, 240, 240)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")
def test_process_that_is_really_short_of_memory_scores_all_the_same(tmp_path):
    found = tmp_path / "found.pt"
    command = [sys.executable, "-c", REALLY_SHORT, found]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Memory does not suffice for 32 images" in run.stdout
    expected = small_model()(large_batch())
    assert_same(torch.load(found), (expected.pred_score, expected.anomaly_map), 1e-4)
