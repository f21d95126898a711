"""The example that watches a folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dual_image_clip import DualImageCLIP
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.weights import EMBEDDED
from examples import watch_folder
from tests.drawn_data import draw_plate, make_photos, save
from tests.integration.commands import files_of_at_most, hear_ctrl_c, rows_of

SCRIPT = Path(watch_folder.__file__)
ARGUMENTS = ["--class-name", "plate", "--backbone", EMBEDDED, "--interval", "0.1"]


def run_once(folder: Path, *arguments: str) -> list[str]:
    command = [sys.executable, SCRIPT, folder, *ARGUMENTS, "--once", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_what_is_there_is_scored_once_and_in_order(workspace):
    photos = make_photos(workspace / "photos", normal=9, defective=0)
    save(draw_plate(77, defect="spot")[0], photos / "x_spoilt.png")
    (photos / "notes.txt").write_text("no image")
    (photos / "broken.png").write_text("no image")
    for place, path in enumerate(sorted(photos.iterdir())):
        os.utime(path, (1000 + place, 1000 + place))
    lines = run_once(photos, "--csv", "scores.csv", "--references", "3")
    rows = rows_of(workspace / "scores.csv")
    names = [f"plate_{index:03}.png" for index in range(9)] + ["x_spoilt.png"]
    assert [Path(row["file"]) for row in rows] == [photos.resolve() / name for name in names]
    assert sum(line.startswith("broken.png cannot be read as an image") for line in lines) == 1
    assert [line.split(":")[0] for line in lines if ": normal" in line or ": ANOMALOUS" in line] == names

    model = DualImageCLIP(class_name="plate", backbone=EMBEDDED)
    detector = StreamingDetector(model, references=3)
    for name, row in zip(names, rows, strict=True):
        expected = detector(photos / name)
        assert float(row["score"]) == pytest.approx(expected.score, abs=1e-3)
        assert float(row["threshold"]) == pytest.approx(expected.threshold, abs=2e-3)
        assert int(row["references"]) == expected.num_references
        assert (row["label"] == "anomalous") == (float(row["score"]) > float(row["threshold"]))
    assert {row["label"] for row in rows[:7]} == {"normal"}
    assert rows[-1]["label"] == "anomalous"

    # After a restart only what is new is scored, and the header is there once.
    save(draw_plate(50)[0], photos / "new.png")
    run_once(photos, "--csv", "scores.csv")
    assert [Path(row["file"]).name for row in rows_of(workspace / "scores.csv")] == [*names, "new.png"]


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_files_that_come_are_scored_until_it_is_ended(workspace):
    photos, results = make_photos(workspace / "photos", normal=1, defective=0), workspace / "results.csv"
    command = [sys.executable, SCRIPT, photos, *ARGUMENTS]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,  # noqa: PLW1509
    ) as process:
        try:
            wait_for(lambda: results.exists() and len(rows_of(results)) == 1)
            save(draw_plate(50)[0], photos / "late.png")
            wait_for(lambda: len(rows_of(results)) == 2)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert [line.split(":")[0] for line in output.splitlines()][-3:] == ["plate_000.png", "late.png", "ended"]


def test_a_folder_that_is_none_is_named(workspace):
    command = [sys.executable, SCRIPT, workspace / "nowhere", *ARGUMENTS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no folder" in result.stderr
    assert "nowhere" in result.stderr


# The file of results

ROWS = [(Path(f"/photos/{name}.png"), "0.500000", "1.000000", "normal", 0) for name in "abc"]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_are_added_and_known_after_a_restart(tmp_path):
    results = watch_folder.Results(tmp_path / "results.csv")
    assert results.files == set()
    for row in ROWS[:2]:
        results.append(row)
    del results
    again = watch_folder.Results(tmp_path / "results.csv")
    assert again.files == {ROWS[0][0], ROWS[1][0]}
    again.append(ROWS[2])
    assert [row["file"] for row in rows_of(tmp_path / "results.csv")] == [str(row[0]) for row in ROWS]


@pytest.mark.parametrize("content", ["name,price\nnut,1\n", "file,score,remark\n", "\n", "just text"])
def test_somebody_elses_file_is_refused_and_left(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"results\.csv is there already and holds no results of a watch: move it away"
    ):
        watch_folder.Results(path)
    assert path.read_text() == content


def test_the_command_refuses_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    (tmp_path / "list.csv").write_text("somebody's own")
    monkeypatch.setattr(watch_folder, "DualImageCLIP", lambda **_: pytest.fail("was loaded"))
    monkeypatch.setattr(
        sys, "argv", ["watch", str(tmp_path), "--class-name", "nut", "--csv", str(tmp_path / "list.csv")]
    )
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit):
        watch_folder.main()
    assert "list.csv is there already" in capsys.readouterr().err
    assert (tmp_path / "list.csv").read_text() == "somebody's own"


@pytest.mark.parametrize("length", range(0, 115, 6))
def test_a_row_that_was_cut_off_is_written_anew_and_costs_no_other(tmp_path, length):
    whole = tmp_path / "whole.csv"
    results = watch_folder.Results(whole)
    for row in ROWS[:2]:
        results.append(row)
    path = tmp_path / "results.csv"
    path.write_bytes(whole.read_bytes()[:length])
    results = watch_folder.Results(path)
    for row in ROWS:
        if row[0] not in results.files:
            results.append(row)
    complete = [row["file"] for row in rows_of(path) if row["references"]]
    assert complete == [str(row[0]) for row in ROWS]
    assert lines(path).count(",".join(watch_folder.COLUMNS)) == 1


def test_results_of_a_full_disk_are_kept_and_written_later(tmp_path, capsys):
    path = tmp_path / "results.csv"
    results = watch_folder.Results(path)
    results.append(ROWS[0])
    before = path.read_bytes()
    with files_of_at_most(len(before) + 9):
        results.append(ROWS[1])
    assert path.read_bytes() == before
    assert capsys.readouterr().out == f"{path}: File too large; 1 result(s) wait\n"
    results.append(ROWS[2])
    assert [row["file"] for row in rows_of(path)] == [str(row[0]) for row in ROWS]
    assert results.waiting == []


def test_two_watches_do_not_share_a_file(tmp_path):
    first = watch_folder.Results(tmp_path / "results.csv")
    script = "import sys; from examples.watch_folder import Results; Results(__import__('pathlib').Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, tmp_path / "results.csv"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert "another watch is writing to" in result.stderr
    first.append(ROWS[0])
    assert len(rows_of(tmp_path / "results.csv")) == 1


# Which files are complete


class Looks:
    """Changes a folder while the watcher sleeps."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def __call__(self, interval: float) -> None:
        assert interval == 2.5
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()


def watched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object], done=(), once=False
) -> list[str]:
    monkeypatch.setattr(watch_folder.time, "sleep", Looks(*steps))
    found = []
    try:
        for path in watch_folder.complete_files(folder, set(done), 2.5, once):
            found.append(path.name)
    except KeyboardInterrupt:
        found.append("interrupted")
    return found


def nothing() -> None:
    pass


def grow(path: Path) -> Callable[[], object]:
    return lambda: path.write_bytes(path.read_bytes() + b"x" if path.exists() else b"x")


def test_a_file_that_grows_waits(tmp_path, monkeypatch):
    growing, ready = tmp_path / "growing.png", tmp_path / "ready.png"
    grow(growing)()
    grow(ready)()
    steps = [grow(growing), grow(growing), nothing, nothing]
    assert watched(tmp_path, monkeypatch, steps[0]) == ["ready.png", "interrupted"]
    assert watched(tmp_path, monkeypatch, *steps) == ["ready.png", "growing.png", "interrupted"]
    assert watched(tmp_path, monkeypatch, *steps, once=True) == ["ready.png", "growing.png"]


def test_a_file_of_the_same_size_that_is_written_to_waits(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(b"x")

    def rewrite() -> None:
        path.write_bytes(b"y")
        os.utime(path, (5, 5))

    assert watched(tmp_path, monkeypatch, rewrite) == ["interrupted"]
    assert watched(tmp_path, monkeypatch, rewrite, nothing) == ["image.png", "interrupted"]


def test_only_what_was_there_counts_once(tmp_path, monkeypatch):
    first, late = tmp_path / "first.png", tmp_path / "late.png"
    grow(first)()
    assert watched(tmp_path, monkeypatch, grow(late), once=True) == ["first.png"]
    assert watched(tmp_path, monkeypatch, grow(first), nothing, nothing, once=True) == ["late.png", "first.png"]
    assert watched(tmp_path, monkeypatch, grow(late), nothing, done=[first]) == ["late.png", "interrupted"]
    assert watched(tmp_path, monkeypatch, done=[first, late], once=True) == []
    first.unlink()
    late.unlink()
    assert watched(tmp_path, monkeypatch, once=True) == []


def test_a_file_that_is_removed_is_not_waited_for_and_may_come_again(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    grow(path)()
    assert watched(tmp_path, monkeypatch, path.unlink, once=True) == []
    grow(path)()
    steps = [nothing, nothing, path.unlink, grow(path), nothing]
    assert watched(tmp_path, monkeypatch, *steps) == ["image.png", "image.png", "interrupted"]


def test_a_folder_that_is_away_for_a_while_is_not_scored_again(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "share"
    folder.mkdir()
    grow(folder / "a.png")()

    def go() -> None:
        folder.rename(tmp_path / "away")

    def come() -> None:
        (tmp_path / "away").rename(folder)
        grow(folder / "b.png")()

    assert watched(folder, monkeypatch, nothing, go, nothing, come, nothing) == ["a.png", "b.png", "interrupted"]
    assert capsys.readouterr().out == f"{folder} cannot be read: No such file or directory\n"
    (folder / "c.png").write_bytes(b"x")
    assert watched(folder, monkeypatch, go, once=True) == []


def test_empty_files_folders_and_other_files_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "image.png.part").write_text("x")
    (tmp_path / "results.csv").write_text("x")
    assert watched(tmp_path, monkeypatch, nothing, nothing) == ["interrupted"]


@pytest.mark.parametrize("name", ["camera.NEF", "moving.gif", "photo.jp2"])
def test_every_format_of_a_photo_is_scored_or_named(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("x")
    assert name in watched(tmp_path, monkeypatch, nothing, nothing)


def test_a_file_that_cannot_be_read_is_told_why(tmp_path, capsys):
    (tmp_path / "camera.nef").write_text("raw")
    model = DualImageCLIP(class_name="plate", backbone=EMBEDDED)
    results = watch_folder.Results(tmp_path / "results.csv")
    watch_folder.process(tmp_path / "camera.nef", StreamingDetector(model), results)
    assert "camera.nef is a camera's raw file: develop it to TIFF or PNG first" in capsys.readouterr().out
    assert not results.waiting
