"""Who may replace which file of a folder of results."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_image_clip.photos import RECORD_NAME, find_photos
from dual_image_clip.prediction.heatmaps import encoded
from dual_image_clip.prediction.output_folder import LOCK_NAME, OutputError, OutputFolder
from tests.integration.commands import files_of_at_most


def write(folder: Path, *names: str) -> OutputFolder:
    """A run that writes files of its own."""
    output = OutputFolder(folder)
    output.claim(names)
    for name in names:
        output.write(name, Path.touch)
    output.release()
    return output


def files(folder: Path) -> list[str]:
    """What a run has left, but for its lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME)


def kill(run: Callable[[], object]) -> None:
    """Begins a run in a process of its own, which does not survive."""
    process = os.fork()
    if not process:
        try:
            run()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_files_of_earlier_runs_may_be_replaced_also_where_runs_differ(tmp_path):
    write(tmp_path, "a.png")
    write(tmp_path, "below/b.png")
    output = OutputFolder(tmp_path)
    output.claim(["a.png", "below/b.png"])
    for name in ("a.png", "below/b.png"):
        assert output.write(name, lambda path: path.write_text("new"))
        assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_whatever_else_is_there_may_not(tmp_path, kind):
    taken = tmp_path / "a.png"
    {
        "file": taken.touch,
        "folder": taken.mkdir,
        "dangling link": lambda: taken.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(OutputError, match=r"a\.png is there already .*move it away, or choose another folder$"):
        OutputFolder(tmp_path).claim(["a.png"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "below").touch()
    with pytest.raises(OutputError, match=r"^cannot write to .*below: File exists$"):
        OutputFolder(tmp_path).claim(["below/a.png"])


def test_a_refused_claim_notes_nothing(tmp_path):
    (tmp_path / "a.png").touch()
    for _ in range(2):
        with pytest.raises(OutputError):
            OutputFolder(tmp_path).claim(["a.png", "b.png"])
    assert not (tmp_path / RECORD_NAME).exists()


def test_what_a_killed_run_has_written_is_its_own_and_what_it_has_not_is_not(tmp_path):
    kill(lambda: (output := OutputFolder(tmp_path)).claim(["a.png", "b.png"]) or output.write("a.png", Path.touch))
    OutputFolder(tmp_path).claim(["a.png", "b.png"])
    (tmp_path / "b.png").write_text("somebody's own")
    with pytest.raises(OutputError, match=r"b\.png is there already and was not written by an earlier run"):
        OutputFolder(tmp_path).claim(["a.png", "b.png"])


def test_a_run_killed_while_it_writes_leaves_the_earlier_file_whole_and_is_cleaned_up(tmp_path):
    write(tmp_path, "a.png").write("a.png", lambda path: path.write_text("earlier"))

    def die(path: Path) -> None:
        path.write_text("half a")
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        output = OutputFolder(tmp_path)
        output.claim(["a.png", "below/b.png"])
        output.write("below/b.png", Path.touch)
        output.write("a.png", die)

    kill(run)
    assert (tmp_path / "a.png").read_text() == "earlier"
    assert len(list(tmp_path.glob(".dual-image-clip-*.part"))) == 1
    assert find_photos(tmp_path).photos == [str(tmp_path / "a.png"), str(tmp_path / "below/b.png")]
    output = OutputFolder(tmp_path)
    output.claim(["a.png"])
    assert files(tmp_path) == [RECORD_NAME, "a.png", "b.png"]
    assert output.write("a.png", lambda path: path.write_text("new"))
    assert (tmp_path / "a.png").read_text() == "new"


def test_a_run_killed_between_note_and_file_keeps_its_right_to_the_earlier_one(tmp_path, monkeypatch):
    write(tmp_path, "a.png").write("a.png", lambda path: path.write_text("earlier"))

    def run() -> None:
        output = OutputFolder(tmp_path)
        output.claim(["a.png"])
        monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        output.write("a.png", lambda path: path.write_text("new"))

    for _ in range(2):
        kill(run)
        assert (tmp_path / "a.png").read_text() == "earlier"
    OutputFolder(tmp_path).claim(["a.png"])


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = """
import sys
from pathlib import Path
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""
    write(tmp_path, "a.png")
    command = [sys.executable, "-c", script, tmp_path / LOCK_NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        for entrance in (OutputFolder.require_own, OutputFolder.claim):
            with pytest.raises(OutputError, match=r"^another run is writing to .*: wait until it has ended, or choose"):
                entrance(OutputFolder(tmp_path), ["a.png"])
        other.kill()
    OutputFolder(tmp_path).require_own(["a.png"])
    write(tmp_path, "a.png")


def test_a_run_holds_its_folder_until_it_ends_or_is_refused(tmp_path):
    def is_free() -> bool:
        return subprocess.run([sys.executable, "-c", script, tmp_path / LOCK_NAME], check=False).returncode == 0

    script = "import sys, filelock; filelock.FileLock(sys.argv[1], 0).acquire()"
    output, beside = OutputFolder(tmp_path), OutputFolder(tmp_path)
    output.claim(["a.png"])
    # List and heatmaps of a run may be in one folder.
    beside.claim(["b.png"])
    output.release()
    output.release()
    assert not is_free()
    beside.release()
    assert is_free()
    (tmp_path / "c.png").touch()
    with pytest.raises(OutputError):
        output.claim(["c.png"])
    assert is_free()


def test_a_file_that_somebody_has_worked_on_is_not_replaced(tmp_path):
    output = write(tmp_path, "predictions.csv")
    (tmp_path / "predictions.csv").write_text("with remarks")
    message = r"predictions\.csv is there already and was changed after an earlier run had written it: move it away"
    with pytest.raises(OutputError, match=message):
        OutputFolder(tmp_path).claim(["predictions.csv"])
    assert not output.write("predictions.csv", Path.touch)
    assert (tmp_path / "predictions.csv").read_text() == "with remarks"


def test_a_read_only_folder_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(OutputError, match=r"^cannot write to .*: it is read-only$"):
        OutputFolder(tmp_path / "new" / "below").require_own(["a.png"])


def test_what_was_deleted_is_forgotten(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    write(tmp_path, "b.png")
    (tmp_path / "a.png").write_text("somebody's own")
    with pytest.raises(OutputError):
        OutputFolder(tmp_path).claim(["a.png"])


def test_what_was_never_written_is_not_claimed_for_ever(tmp_path):
    output = write(tmp_path, "a.png")
    output.claim(["b.png"])
    output.release()
    OutputFolder(tmp_path).claim(["a.png"])
    (tmp_path / "b.png").write_text("somebody's own")
    with pytest.raises(OutputError, match=r"b\.png"):
        OutputFolder(tmp_path).claim(["a.png", "b.png"])


def test_a_run_that_has_written_nothing_leaves_no_record(tmp_path):
    output = OutputFolder(tmp_path)
    output.claim(["a.png"])
    output.release()
    assert files(tmp_path) == []


@pytest.mark.parametrize("claimed", [True, False])
def test_a_file_that_comes_during_the_run_is_not_replaced(tmp_path, claimed):
    output = OutputFolder(tmp_path)
    output.claim(["a.png"] * claimed)
    (tmp_path / "a.png").write_text("somebody's own")
    assert not output.write("a.png", Path.touch)
    assert "a.png is there already" in output.failures[0].replace(": ", " ")
    assert (tmp_path / "a.png").read_text() == "somebody's own"


def test_what_a_link_points_to_is_not_written_into(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("somebody's own")
    write(tmp_path / "out", "a.txt")
    (tmp_path / "out" / "a.txt").unlink()
    (tmp_path / "out" / "a.txt").symlink_to(own)
    with pytest.raises(OutputError, match=r"a\.txt is there already"):
        write(tmp_path / "out", "a.txt")
    assert own.read_text() == "somebody's own"


def test_a_file_is_written_as_a_whole_or_stays_as_it_was(tmp_path):
    write(tmp_path, "a.csv").write("a.csv", lambda path: path.write_text("earlier"))
    output = OutputFolder(tmp_path)
    output.claim(["a.csv"])

    def fill_the_disk(path: Path) -> None:
        path.write_text("half a")
        raise OSError(28, "No space left on device")

    assert not output.write("a.csv", fill_the_disk)
    assert output.failures == [f"{tmp_path / 'a.csv'}: No space left on device"]
    assert (tmp_path / "a.csv").read_text() == "earlier"
    assert files(tmp_path) == [RECORD_NAME, "a.csv"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"])
def test_a_picture_for_whose_last_bytes_there_is_no_room_is_not_written(tmp_path, name):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8))
    output = OutputFolder(tmp_path)
    output.claim([name])
    assert output.write(name, encoded(picture, name))
    with files_of_at_most((tmp_path / name).stat().st_size - 1):
        assert not output.write(name, encoded(picture, name))
    assert output.failures == [f"{tmp_path / name}: File too large"]
    Image.open(tmp_path / name).load()


@pytest.mark.parametrize("content", ["", "[]", '["a.png"]', "[1, 2]", '["a.png", ["b"]]', "\0"])
def test_a_damaged_record_gives_no_right_to_anything(tmp_path, content):
    (tmp_path / "a.png").touch()
    (tmp_path / RECORD_NAME).write_text(content)
    with pytest.raises(OutputError):
        OutputFolder(tmp_path).claim(["a.png"])


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    write(tmp_path, "a.png")
    with (tmp_path / RECORD_NAME).open("a") as record:
        record.write('["b.pn')
    write(tmp_path, "c.png")
    output = OutputFolder(tmp_path)
    output.claim(["a.png", "c.png"])
    for name in ("a.png", "c.png"):
        assert output.write(name, lambda path: path.write_text("of the second run"))
        assert (tmp_path / name).read_text() == "of the second run"


def test_names_that_are_no_text(tmp_path):
    name = "caf\udce9.png"
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    (tmp_path / name).unlink()
    for _ in range(2):
        write(tmp_path, name)
    assert (tmp_path / name).exists()
