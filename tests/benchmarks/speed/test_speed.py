"""Every measurement on a tower of a few thousand weights, which is what the full-size one is measured with."""

import logging
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed import evaluation, folder, instruments, stream, tower
from tests.helpers import TINY

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for module in (tower, folder, evaluation, stream):
        monkeypatch.setattr(module, "random_model", partial(instruments.random_model, TINY))
    yield
    logging.disable(logging.NOTSET)


def start(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.speed", *arguments])
    command.main()


def test_candidates_are_timed_in_turn_after_one_round_that_does_not_count():
    calls = []
    candidates = {"slow": lambda: (calls.append("slow"), time.sleep(0.02)), "fast": lambda: calls.append("fast")}
    seconds = instruments.time_in_turn(candidates, rounds=3)
    assert calls == ["slow", "fast"] * 4
    assert [len(each) for each in seconds.values()] == [3, 3]
    assert min(seconds["slow"]) >= 0.02 > max(seconds["fast"])


def test_memory_grows_with_what_is_held():
    # In a process that holds no freed memory, which would be taken before any of the system's.
    program = """
from benchmarks.speed.instruments import memory_megabytes
before = memory_megabytes("VmRSS")
held = bytearray(b"1") * 200_000_000
print(memory_megabytes("VmRSS") - before, memory_megabytes("VmHWM") - before)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    now, peak = map(float, printed.split())
    assert now == pytest.approx(200, rel=0.1)
    assert peak >= 180


def test_tower_is_measured_in_both_precisions(monkeypatch, capsys):
    monkeypatch.setattr(tower, "process_rows", list)
    start(monkeypatch, "tower", "--batch-size", "2", "--rounds", "1")
    printed = capsys.readouterr().out
    for precision in tower.PRECISIONS:
        assert len(re.findall(rf"{precision}, batch 2: .* \d+ ms an image, [\d.]+ and [\d.]+ ×", printed)) == 5
    assert re.search(r"float32, batch 2: bare pass, open_clip's encode_image .* 1\.00 and", printed)
    assert "text of a category, from the cache" in printed


def test_tower_is_what_is_measured_by_default(monkeypatch):
    started = []
    monkeypatch.setattr(tower, "main", started.append)
    start(monkeypatch)
    assert (started[0].batch_size, started[0].rounds) == (8, 5)


def test_process_is_measured(monkeypatch):
    assert 0.1 < tower.peak_memory_gigabytes() < 5
    monkeypatch.setattr(tower, "ONE_BY_ONE", 2)
    assert all(100 < megabytes < 5000 for megabytes in tower.memory_of_one_by_one())
    assert 0 < tower.plugin_start_milliseconds(repeats=1) < 1000


@pytest.mark.parametrize("precision", stream.PRECISIONS)
def test_stream_is_measured(monkeypatch, capsys, precision):
    start(monkeypatch, "stream", "--count", "6", "--precision", precision)
    printed = capsys.readouterr().out
    assert precision in printed
    assert "median latency of 6 images" in printed
    assert len(re.findall(r"[\d.]+ × \d+ ms", printed)) == 2
    assert "after 22 images" in printed


def test_folder_is_measured_with_what_a_prediction_writes(monkeypatch, capsys):
    start(monkeypatch, "folder", "--images", "3", "--size", "96", "--adaptation-steps", "0")
    printed = capsys.readouterr().out
    whole, inside, ratio, kilobytes = map(float, re.findall(r"^(?:whole|model|ratio|report)\D+([\d.]+)", printed, re.M))
    assert whole > inside > 0
    assert ratio == pytest.approx(whole / inside, rel=0.5)
    assert kilobytes > 1


def test_a_test_is_measured_which_scores_each_image_once(monkeypatch, capsys):
    start(monkeypatch, "evaluation", "--images", "5", "--size", "96", "--batch-size", "2", "--adaptation-steps", "0")
    printed = capsys.readouterr().out
    assert "5 images of 96×96 pixels, 5 scored" in printed
    whole, alone, ratio = map(float, re.findall(r"^(?:whole|model|ratio)\D+([\d.]+)", printed, re.M))
    assert whole > alone > 0
    assert ratio == pytest.approx(whole / alone, rel=0.5)


def test_help_names_the_subjects():
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "{tower,folder,evaluation,stream}" in found.stdout
