"""``dual-image-clip watch`` as its users run it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from dual_image_clip import DualImageCLIP, cli
from dual_image_clip.commands import watch
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos, save
from tests.integration.commands import hear_ctrl_c
from tests.sources.clips import address_of, camera, write_video

MODEL = ["--class-name", "plate", "--backbone", EMBEDDED, "--adaptation-steps", "0"]


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """An empty current folder; signals are heard as before."""
    before = signal.getsignal(signal.SIGTERM)
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    signal.signal(signal.SIGTERM, before)


def records_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def detector_of(references: int, **arguments) -> StreamingDetector:
    return StreamingDetector(
        DualImageCLIP(class_name="plate", backbone=EMBEDDED, adaptation_steps=0, **arguments), references
    )


def test_what_is_there_is_scored_once_and_in_order(workspace, capsys):
    photos = make_photos(workspace / "photos", normal=9, defective=0)
    save(draw_plate(77, defect="spot")[0], photos / "sub" / "x_spoilt.png")
    (photos / "notes.txt").write_text("no image")
    (photos / "broken.png").write_text("no image")
    for place, path in enumerate(sorted(path for path in photos.rglob("*") if path.is_file())):
        os.utime(path, (1000 + place, 1000 + place))
    arguments = ["watch", "photos", *MODEL, "--once", "--output", "out/results.jsonl", "--num-references", "3"]
    assert cli.main(arguments) == 0
    output, said = capsys.readouterr()
    assert output == ""
    assert "10 picture(s) scored, 1 anomalous, 1 of no use; results: out/results.jsonl" in said
    results = workspace / "out" / "results.jsonl"
    records = records_of(results.read_text())
    names = ["broken.png", *(f"plate_{index:03}.png" for index in range(9)), "sub/x_spoilt.png"]
    assert [record["name"] for record in records] == [str(photos.resolve() / name) for name in names]
    assert records[0]["error"] == "cannot be read as an image (cannot identify image file)"

    detector = detector_of(3)
    for record in records[1:]:
        expected = detector(record["name"])
        assert record["score"] == pytest.approx(expected.score, abs=1e-5)
        assert record["num_references"] == expected.num_references
        assert (record["width"], record["height"]) == (120, 120)
        assert [each["left"] for each in record["defects"]] == [each.box[0] for each in expected.defects]
    assert [record["label"] for record in records[1:]] == [None] * 7 + ["normal"] * 2 + ["anomalous"]
    assert records[1]["threshold"] is None
    assert records[-1]["time"].startswith("1970-01-01T00:16:")

    # Of what is labelled anomalous there is a heatmap, in which the photo and the place can be seen.
    heatmap = cv2.imread(records[-1]["heatmap"])
    assert heatmap.shape == (120, 240, 3)
    assert [record["heatmap"] for record in records[1:-1]] == [None] * 9
    kept = [path.name for path in (workspace / watch._DEFAULT_HEATMAPS).rglob("*.jpg")]
    assert kept == ["x_spoilt.png.jpg"]

    # After a restart only what is new is scored, and what could not be read is tried again.
    save(draw_plate(50)[0], photos / "new.png")
    save(draw_plate(51)[0], photos / "broken.png")
    assert cli.main(arguments) == 0
    again = records_of(results.read_text())
    assert again[: len(records)] == records
    assert sorted(Path(record["name"]).name for record in again[len(records) :]) == ["broken.png", "new.png"]


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_photos_that_come_are_scored_until_it_is_ended(workspace):
    photos = make_photos(workspace / "photos", normal=1, defective=0)
    lines, messages = workspace / "lines.jsonl", workspace / "messages.txt"
    command = [sys.executable, "-m", "dual_image_clip.cli", "watch", photos, *MODEL, "--threshold", "0.001"]
    with (
        lines.open("wb") as output,
        messages.open("wb") as errors,
        subprocess.Popen(command, stdout=output, stderr=errors, preexec_fn=hear_ctrl_c) as process,  # noqa: PLW1509
    ):
        try:
            wait_for(lambda: len(records_of(lines.read_text())) == 1)
            photos.rename(workspace / "away")
            wait_for(lambda: "cannot be read: No such file" in messages.read_text())
            (workspace / "away").rename(photos)
            name = os.fsdecode("late ß \udcff.png".encode(errors="surrogateescape"))
            save(draw_plate(50)[0], photos / "late.png.part.png").rename(photos / "sub.png")
            (photos / "sub.png").rename(photos / name)
            wait_for(lambda: len(records_of(lines.read_text())) >= 2)
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
    said = messages.read_text()
    assert process.returncode == 130, said
    assert f"{photos} is back" in said
    assert said.splitlines()[-1].startswith("2 picture(s) scored, 2 anomalous, 0 of no use; results: standard output")
    first, second = records_of(lines.read_text())
    assert first["name"] == str(photos / "plate_000.png")
    assert second["name"] == str(photos / name)
    assert first["defects"]
    assert Path(second["heatmap"]).name == f"{name}.jpg"
    assert (workspace / second["heatmap"]).is_file()


def test_a_video_is_scored_to_its_end(workspace, capsys):
    frames = [draw_plate(seed)[0] for seed in range(6)]
    video = write_video(workspace / "clip.avi", frames)
    assert cli.main(["watch", "clip.avi", *MODEL, "--every", "2", "--threshold", "0.9"]) == 0
    records = records_of(capsys.readouterr().out)
    assert [record["name"] for record in records] == ["clip.avi#1", "clip.avi#3", "clip.avi#5"]
    assert [record["seconds"] for record in records] == pytest.approx([0, 0.2, 0.4])
    detector = detector_of(8)
    capture = cv2.VideoCapture(str(video))
    decoded = [capture.read()[1][..., ::-1] for _ in frames]
    expected = [detector(frame).score for frame in decoded[::2]]
    assert [record["score"] for record in records] == pytest.approx(expected, abs=1e-5)


def test_a_camera_is_scored_until_ctrl_c_which_lets_the_picture_in_hand_have_its_line(workspace, capsys, monkeypatch):
    def give(record: dict) -> None:
        if record["num_references"] == 2:
            signal.raise_signal(signal.SIGINT)
        printed(record)

    printed = watch._print
    monkeypatch.setattr(watch, "_print", give)
    with camera(draw_plate(1)[0]) as server:
        assert cli.main(["watch", address_of(server), *MODEL]) == cli.INTERRUPTED
    output, said = capsys.readouterr()
    records = records_of(output)
    assert [record["name"] for record in records] == [address_of(server).replace("somebody:secret@", "")] * 3
    assert [record["num_references"] for record in records] == [0, 1, 2]
    assert records[0]["time"] < records[1]["time"] < records[2]["time"]
    assert "3 picture(s) scored" in said


def test_a_reader_that_has_gone_is_told_in_one_line():
    script = (
        "import sys; from dual_image_clip.commands import CommandError, watch\n"
        "sys.stdin.read()\n"
        "try: watch._print({})\n"
        "except CommandError as error: print(error, file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == "cannot write to standard output: Broken pipe\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "there is no folder, video or camera nowhere"),
        (["empty.avi"], "empty.avi cannot be read as a video, or has no frames"),
        (["http://127.0.0.1:9/x"], "http://127.0.0.1:9/x cannot be opened, or sends no frames"),
        (["photos", "--every", "2"], "--every is for videos, and photos is none"),
        (["empty.avi", "--every", "0"], "--every must be at least 1, got 0"),
        (["empty.avi", "--once"], "--once is for folders, and empty.avi is none"),
        (["photos", "--heatmaps", "photos/x"], "photos and --heatmaps photos/x lie inside each other"),
        (["photos", "--output", "list.jsonl"], "list.jsonl is there already and holds no results"),
        (["photos", "--output", "empty.avi/x"], "cannot write to --output empty.avi/x"),
        (["photos", "--heatmaps", "empty.avi"], "--heatmaps: cannot write to empty.avi"),
    ],
)
def test_mistakes_are_told_in_one_line_before_a_model_is_loaded(workspace, monkeypatch, capsys, arguments, reason):
    (workspace / "photos").mkdir()
    (workspace / "empty.avi").touch()
    (workspace / "list.jsonl").write_text("somebody's own")
    monkeypatch.setattr(watch, "load_model", lambda *_, **__: pytest.fail("was loaded"))
    assert cli.main(["watch", *arguments, *MODEL]) == cli.WRONG_ARGUMENTS
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert (workspace / "list.jsonl").read_text() == "somebody's own"
