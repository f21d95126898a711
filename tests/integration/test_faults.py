"""What goes wrong around a run: a full or read-only disk, photos that change, a kill, and a second run."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dual_image_clip.cli import main
from dual_image_clip.photos import PhotoReader
from dual_image_clip.prediction import OutputError, OutputFolder
from dual_image_clip.prediction.batches import images_of
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, save
from tests.helpers import make_data, make_engine, make_model
from tests.integration.commands import rows_of

ARGUMENTS = ["--class-name", "plate", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--output", "out"]


def predict(photos: Path, *more: str) -> int:
    return main(["predict", str(photos), *ARGUMENTS, *more])


@pytest.fixture
def mount(workspace: Path) -> Iterator:
    """Makes ``out`` a small disk, or a read-only one, as only root may."""
    (workspace / "out").mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", workspace / "out"]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("takes the right to mount a disk")

    yield mount
    subprocess.run(["umount", workspace / "out"], check=False, capture_output=True)  # noqa: S607


def assert_whole(folder: Path) -> int:
    """Looks at every picture, and for what is unfinished; the number of pictures."""
    pictures = [path for path in folder.rglob("images/*") if path.name[0] != "."]
    for path in pictures:
        Image.open(path).load()
    assert not list(folder.rglob("*.part"))
    return len(pictures)


def test_a_disk_that_fills_up_leaves_whole_files_and_the_list(photos, workspace, mount, tmp_path, monkeypatch, caplog):
    # Pillow does not notice that the end of these is missing.
    for suffix in (".jpg", ".bmp", ".tif"):
        save(draw_plate(50)[0], photos / f"a{suffix}")
    mount("size=600k")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # With a threshold that is known, masks are drawn at once.
    assert predict(photos, "--threshold", "0.5") == 1
    drawn = assert_whole(workspace / "out")
    assert 0 < drawn < 14
    assert f"{14 - drawn} picture(s) could not be written, the first: out/images/" in caplog.text
    assert "No space left on device" in caplog.text
    places = [workspace / "out" / "predictions.csv", *tmp_path.glob("dual-image-clip-*/predictions.csv")]
    (found,) = [rows_of(path) for path in places if path.exists()]
    assert len(found) == 14
    assert sum(bool(row["heatmap"]) for row in found) == drawn
    assert "Traceback" not in caplog.text


def test_a_list_for_which_there_is_no_place_is_said(photos, workspace, monkeypatch, caplog):
    def fill_the_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", fill_the_disk)
    monkeypatch.setattr("dual_image_clip.prediction.result_files.write_csv", fill_the_disk)
    assert predict(photos) == 1
    (said,) = [record.getMessage() for record in caplog.records if "could not be written anywhere" in record.message]
    rows = list(csv.DictReader(said.splitlines()[1:]))
    assert len(rows) == 11
    assert Path(rows[0]["path"]).name == "spoilt_000.png"
    assert "out/predictions.csv: No space left on device" in caplog.text


def test_a_read_only_disk_is_told_before_anything_is_loaded(photos, mount, monkeypatch, capfd):
    mount("ro")
    monkeypatch.setitem(sys.modules, "dual_image_clip.lightning_model", None)
    assert predict(photos) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "out: it is read-only" in said[0]


def test_photos_that_change_during_the_run_are_listed_and_the_others_scored(photos, workspace, monkeypatch, capfd):
    read = PhotoReader.read

    def change_and_read(self, name):
        if not (photos / "z_added.png").exists():
            (photos / "plate_003.png").unlink()
            (photos / "plate_005.png").write_text("garbage")
            (photos / "plate_007.png").unlink()
            (photos / "plate_007.png").mkdir()
            save(draw_plate(60, (300, 90))[0], photos / "plate_008.png")
            shutil.copy(photos / "plate_008.png", photos / "z_added.png")
        return read(self, name)

    monkeypatch.setattr(PhotoReader, "read", change_and_read)
    assert predict(photos) == 0
    names = {Path(row["path"]).name for row in rows_of(workspace / "out" / "predictions.csv")}
    # What was added is a photo of the next run.
    left = {f"plate_{index:03}.png" for index in (0, 1, 2, 4, 6, 8, 9)}
    assert names == {*left, "spoilt_000.png"}
    assert assert_whole(workspace / "out") == 8
    page = (workspace / "out" / "report.html").read_text(encoding="utf-8")
    assert "not looked at" not in page
    for name, reason in (
        ("plate_003.png", "No such file or directory"),
        ("plate_005.png", "cannot identify image file"),
        ("plate_007.png", "is no file"),
    ):
        assert reason in page.split(f"<td>{name}</td>")[1].split("</tr>")[0]


def test_photos_that_go_after_they_were_scored_keep_their_results(photos, workspace, monkeypatch):
    def remove_and_show(batch, model):
        Path(batch.image_path[0]).unlink()
        return images_of(batch, model)

    monkeypatch.setattr("dual_image_clip.prediction.heatmaps.images_of", remove_and_show)
    assert predict(photos) == 0
    assert len(rows_of(workspace / "out" / "predictions.csv")) == 11
    assert assert_whole(workspace / "out") == 11


KILLED = """
import os, signal, sys
from dual_image_clip import cli
from dual_image_clip.prediction import result_files

def die(outcome, settings, versions, path):
    path.write_text("<html>half a report")
    os.kill(os.getpid(), signal.SIGKILL)

result_files.write_report = die
cli.main(sys.argv[1:])
"""


def test_a_run_killed_in_its_report_leaves_the_earlier_one_and_the_next_cleans_up(photos, workspace):
    assert predict(photos) == 0
    before = (workspace / "out" / "report.html").read_bytes()
    command = [sys.executable, "-c", KILLED, "predict", photos, *ARGUMENTS]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert (workspace / "out" / "report.html").read_bytes() == before
    assert len(rows_of(workspace / "out" / "predictions.csv")) == 11
    assert len(list((workspace / "out").glob("*.part"))) == len(list((workspace / "out").glob(".*.part"))) == 1
    assert predict(photos) == 0
    assert assert_whole(workspace / "out") == 11
    assert b"half a report" not in (workspace / "out" / "report.html").read_bytes()


def test_a_second_run_into_the_same_folder_is_refused_in_one_line(photos, workspace, capfd):
    assert predict(photos) == 0
    before = {path: path.read_bytes() for path in (workspace / "out").rglob("*") if path.is_file()}
    hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n  print('held', flush=True)\n  sys.stdin.read()"
    lock = workspace / "out" / "images" / ".dual-image-clip.lock"
    with subprocess.Popen([sys.executable, "-c", hold, lock], stdin=-1, stdout=-1) as first:
        assert first.stdout.readline() == b"held\n"
        capfd.readouterr()
        assert predict(photos) == 2
        said = capfd.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "another run is writing to out/images: wait until it has ended" in said[0]
        # The first one dies without a word.
        first.kill()
    assert {path: path.read_bytes() for path in before} == before
    assert predict(photos) == 0


def test_a_test_run_is_refused_before_its_validation(mvtec, tmp_path, monkeypatch):
    model, data = make_model(visualizer=True, adaptation_steps=0), make_data(mvtec)
    images = tmp_path / "DualImageCLIP" / "MVTecAD" / "bottle" / "latest" / "images"
    taken = save(draw_plate(1)[0], images / "test" / "good" / "003.png")
    before = taken.read_bytes()
    # Validation alone draws nothing.
    make_engine(tmp_path).validate(model=model, datamodule=data)
    monkeypatch.setattr(model, "validation_step", lambda *_: pytest.fail("was validated"))
    with pytest.raises(OutputError, match=r"good.003\.png is there already"):
        make_engine(tmp_path).test(model=model, datamodule=data)
    assert taken.read_bytes() == before


def test_a_run_frees_its_folder_when_it_ends_and_when_it_fails(photos, tmp_path):
    latest = tmp_path / "DualImageCLIP" / "latest"
    free = "import sys, filelock; [filelock.FileLock(each, 0).acquire() for each in sys.argv[1:]]"

    def is_free() -> bool:
        locks = sorted(latest.rglob(".dual-image-clip.lock"))
        assert len(locks) == 2
        return subprocess.run([sys.executable, "-c", free, *locks], check=False).returncode == 0

    make_engine(tmp_path).predict(model=make_model(visualizer=True, adaptation_steps=0), data_path=photos)
    assert is_free()
    with pytest.raises(ValueError, match="num_references=50"):
        make_engine(tmp_path).predict(model=make_model(visualizer=True, num_references=50), data_path=photos)
    assert is_free()
    held = OutputFolder(latest)
    held.claim(["predictions.csv"])
    assert not is_free()
