"""docs/inspection.md, walked through from its first command to its last, each in the state that those before left."""

import json
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pycocotools.coco import COCO

from dual_image_clip import cli
from dual_image_clip.weights import EMBEDDED
from tests.integration.commands import hear_ctrl_c, rows_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "inspection.md"
PROGRAM = Path(sys.executable).parent / "dual-image-clip"
# In half the time.
OWN_WEIGHTS = ["--backbone", EMBEDDED, "--adaptation-steps", "0"]
PHOTOS, GOOD = 8, 35
DEFECTIVE = {"photo_003.png", "photo_007.png"}
LATEST = Path("results/DualImageCLIP/latest")


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def listed(name: str = "predictions.csv") -> list[dict]:
    return rows_of(LATEST / name)


def run(command: list[str]) -> None:
    assert cli.main([*command[1:], *OWN_WEIGHTS]) == 0


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    """A command that goes on until Ctrl-C, which ends it without a word of complaint."""
    process = subprocess.Popen(
        [PROGRAM, *command[1:], *OWN_WEIGHTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def wait_until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(address: str) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.TransportError:
        return False


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_there_are_ten_commands():
    assert [command[1] for command in commands()[1:]] == [
        *("predict", "predict", "predict", "calibrate", "predict", "predict", "predict", "ui", "watch", "serve")
    ]


def test_the_walk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawing, first, within, beside_good, calibrate, decided, by_folder, by_file, page, watch, serve = commands()

    monkeypatch.setattr(sys, "argv", [*drawing[1:], "--photos", str(PHOTOS), "--good", str(GOOD)])
    runpy.run_path(str(ROOT / drawing[1]), run_name="__main__")

    run(first)
    assert len(listed()) == PHOTOS
    assert sum(int(row["defects"]) for row in listed()) == len(listed("defects.csv"))
    annotations = COCO(str(LATEST / "annotations.json"))
    assert len(annotations.getImgIds()) == PHOTOS
    assert len(annotations.getAnnIds()) == len(listed("defects.csv"))

    run(within)
    run(beside_good)
    assert {row["num_references"] for row in listed()} == {"16"}
    assert {Path(row["path"]).name for row in listed()[:2]} == DEFECTIVE
    # The region is the ribbon: 0.22 to 0.78 of 240 pixels.
    boxes = [(int(row["top"]), int(row["top"]) + int(row["height"])) for row in listed("defects.csv")]
    assert boxes
    assert all(top >= 51 and bottom <= 189 for top, bottom in boxes)
    assert all(int(row["area"]) >= 20 for row in listed("defects.csv"))

    run(calibrate)
    thresholds = json.loads(Path("line/threshold.json").read_text())
    assert thresholds["counted"] == GOOD - 16
    capsys.readouterr()

    run(decided)
    printed = json.loads(capsys.readouterr().out)
    assert {each["threshold"] for each in printed["images"]} == {thresholds["threshold"]}
    labels = {Path(each["name"]).name: each["label"] for each in printed["images"]}
    assert {name for name, label in labels.items() if label == "anomalous"} >= DEFECTIVE

    for command in (by_folder, by_file):
        run(command)
        assert {row["product"] for row in listed()} == {"gear", "zipper"}
    settings = (LATEST / "report.html").read_text(encoding="utf-8")
    assert "gear wheel" in settings

    port = free_port()
    with running([*page, "--port", port]) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), process)

    with running(watch) as process:
        results = Path("line/results.jsonl")
        wait_until(lambda: results.exists() and len(results.read_text().splitlines()) == PHOTOS, process)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    # Compared with the same good photos, a photo has the same score, whichever command it is given to.
    scores = {Path(each["name"]).name: each["score"] for each in printed["images"]}
    assert {Path(line["name"]).name: line["score"] for line in lines} == pytest.approx(scores, abs=0.05)

    port = free_port()
    with running([*serve, "--port", port]) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), process)
        photo = Path("line/photos/photo_003.png")
        answer = httpx.post(
            f"http://127.0.0.1:{port}/predict", files={"images": (photo.name, photo.read_bytes())}, timeout=120
        )
        (found,) = answer.json()["images"]
        assert found["label"] == "anomalous"
        assert found["score"] == pytest.approx(scores[photo.name], abs=0.05)
