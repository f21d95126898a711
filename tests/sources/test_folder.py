"""Photos that appear in a folder: each once, when it is complete."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dual_image_clip.photos import RECORD_NAME
from dual_image_clip.sources import Folder, SourceError
from dual_image_clip.sources import folder as watched_folder


class Looks:
    """Changes a folder between looks, which are a second apart."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.clock = 0.0

    def wait(self, _: float = 0.0) -> None:
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.pop(0)()
        self.clock += 1

    def notices(self, folder: Path) -> Iterator[set[Path]]:
        while True:
            yield {folder}
            self.wait()


def watched(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *steps: Callable[[], object],
    once=False,
    known=frozenset(),
    told=None,
) -> list[str]:
    looks = Looks(*steps)
    clock = SimpleNamespace(monotonic=lambda: looks.clock, sleep=looks.wait)
    monkeypatch.setattr(watched_folder, "time", clock)
    monkeypatch.setattr(watched_folder, "_notices", looks.notices)
    found = []
    try:
        for picture in Folder(folder, [].append if told is None else told.append, once, known):
            assert picture.image == picture.name
            found.append(os.path.relpath(picture.name, folder.resolve()))
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
    steps = [grow(growing), grow(growing), nothing]
    assert watched(tmp_path, monkeypatch, steps[0]) == ["ready.png", "interrupted"]
    assert watched(tmp_path, monkeypatch, *steps) == ["ready.png", "growing.png", "interrupted"]
    assert watched(tmp_path, monkeypatch, *steps, once=True) == ["ready.png", "growing.png"]


def test_a_file_of_the_same_size_that_is_written_to_waits(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(b"x")

    def rewrite() -> None:
        # So that the file system's clock has gone on.
        time.sleep(0.02)
        path.write_bytes(b"y")

    assert watched(tmp_path, monkeypatch, rewrite) == ["interrupted"]
    assert watched(tmp_path, monkeypatch, rewrite, nothing) == ["image.png", "interrupted"]


@pytest.mark.skipif(os.name != "posix", reason="there, a file does not tell that it was renamed")
def test_a_file_that_was_renamed_into_its_place_does_not_wait(tmp_path, monkeypatch):
    part = tmp_path / "image.png.part"
    part.write_bytes(b"x")
    os.utime(part, (5, 5))
    part.rename(tmp_path / "image.png")
    assert watched(tmp_path, monkeypatch) == ["image.png", "interrupted"]


def test_a_photo_that_changes_is_given_again(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    grow(path)()
    assert watched(tmp_path, monkeypatch, nothing, nothing, grow(path), nothing, nothing) == [
        *("image.png", "image.png", "interrupted")
    ]


def test_photos_of_subfolders_come_the_oldest_first_and_results_are_none(tmp_path, monkeypatch):
    for age, name in enumerate(["c.png", "sub/b.png", "sub/deep/a.png", "results/x.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "results" / RECORD_NAME).touch()
    assert watched(tmp_path, monkeypatch, nothing) == ["sub/deep/a.png", "sub/b.png", "c.png", "interrupted"]


def test_the_pages_of_a_file_are_so_many_pictures(tmp_path, monkeypatch):
    pages = [Image.new("L", (20, 20), shade) for shade in (10, 20)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert watched(tmp_path, monkeypatch, nothing) == ["a.tif", "a.tif#2", "interrupted"]


def test_only_what_was_there_counts_once(tmp_path, monkeypatch):
    first, late = tmp_path / "first.png", tmp_path / "late.png"
    grow(first)()
    assert watched(tmp_path, monkeypatch, grow(late), nothing, once=True) == ["first.png"]
    first.unlink()
    late.unlink()
    assert watched(tmp_path, monkeypatch, once=True) == []


def test_what_has_a_result_is_not_given_again_after_a_restart_unless_it_has_changed(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    known = {(picture.name, picture.facts["time"]) for picture in Folder(tmp_path, print, once=True)}
    assert watched(tmp_path, monkeypatch, nothing, known=known) == ["interrupted"]
    os.utime(tmp_path / "b.png", (5, 5))
    assert watched(tmp_path, monkeypatch, nothing, known=known) == ["b.png", "interrupted"]


def test_a_file_that_is_removed_is_not_waited_for_and_may_come_again(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    grow(path)()
    assert watched(tmp_path, monkeypatch, path.unlink, once=True) == []
    (tmp_path / "other.png").touch()
    grow(tmp_path / "other.png")()
    grow(path)()
    steps = [nothing, path.unlink, grow(path), nothing]
    assert watched(tmp_path, monkeypatch, *steps).count("image.png") == 2


def test_a_photo_that_goes_while_those_before_it_are_scored_is_passed_over(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"x")
        os.utime(tmp_path / f"{name}.png", (5, 5))
    pictures = iter(Folder(tmp_path, print, once=True))
    assert Path(next(pictures).name).name == "a.png"
    (tmp_path / "b.png").unlink()
    assert list(pictures) == []


def test_a_folder_that_is_away_for_a_while_is_not_given_again(tmp_path, monkeypatch):
    folder, told = tmp_path / "share", []
    folder.mkdir()
    grow(folder / "a.png")()

    def go() -> None:
        folder.rename(tmp_path / "away")

    def come() -> None:
        (tmp_path / "away").rename(folder)
        grow(folder / "b.png")()

    steps = [nothing, go, nothing, nothing, come, nothing]
    assert watched(folder, monkeypatch, *steps, told=told) == ["a.png", "b.png", "interrupted"]
    assert told == [f"{folder} cannot be read: No such file or directory", f"{folder} is back"]
    grow(folder / "c.png")()
    assert watched(folder, monkeypatch, go, once=True) == []


def test_a_drive_that_leaves_its_empty_place_behind_is_not_given_again(tmp_path, monkeypatch):
    folder, told = tmp_path / "share", []
    folder.mkdir()
    grow(folder / "a.png")()

    def unmount() -> None:
        folder.rename(tmp_path / "away")
        folder.mkdir()

    def mount() -> None:
        folder.rmdir()
        (tmp_path / "away").rename(folder)

    assert watched(folder, monkeypatch, nothing, unmount, nothing, nothing, mount, nothing, told=told) == [
        *("a.png", "interrupted")
    ]
    assert len(told) == 2
    assert all(f"{folder} is another folder than before" in line for line in told)


def test_empty_files_folders_and_other_files_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "image.png.part").write_text("x")
    (tmp_path / "results.csv").write_text("x")
    assert watched(tmp_path, monkeypatch, nothing, nothing) == ["interrupted"]


@pytest.mark.parametrize("name", ["camera.NEF", "moving.gif", "photo.jp2"])
def test_every_format_of_a_photo_is_given_be_it_to_be_refused(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("x")
    assert name in watched(tmp_path, monkeypatch, nothing, nothing)


def test_without_notices_it_looks_all_the_same(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(watched_folder, "watch", refuse)
    pictures = iter(Folder(tmp_path, print))
    (tmp_path / "a.png").write_bytes(b"x")
    assert Path(next(pictures).name).name == "a.png"
    (tmp_path / "b.png").write_bytes(b"x")
    assert Path(next(pictures).name).name == "b.png"


def test_what_is_noticed_is_given_without_looking_at_the_others(tmp_path, monkeypatch):
    """In a folder of very many photos, looking at all takes its time."""
    for name in ("a.png", "results/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "results" / RECORD_NAME).touch()
    monkeypatch.setattr(watched_folder, "_REST", 1000)
    pictures = iter(Folder(tmp_path, print))
    assert Path(next(pictures).name).name == "a.png"
    for name in ("results/c.png", "notes.txt", "growing.part", "d.png"):
        (tmp_path / name).write_bytes(b"x")
    assert Path(next(pictures).name).name == "d.png"
    (tmp_path / "growing.part").rename(tmp_path / "e.png")
    assert Path(next(pictures).name).name == "e.png"


def test_a_folder_that_is_moved_here_is_looked_at(tmp_path):
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "a.png").write_bytes(b"x")
    pictures = iter(Folder(tmp_path / "line", print))
    assert Path(next(pictures).name).name == "a.png"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(b"x")
    (tmp_path / "sub").rename(tmp_path / "line" / "sub")
    assert Path(next(pictures).name).name == "b.png"


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere"):
        Folder(tmp_path / "nowhere", print)
