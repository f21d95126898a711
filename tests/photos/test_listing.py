"""Which files of a folder are photos."""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dual_image_clip.photos import PhotoReader, UnusableFile, UnusableImageError, find_photos
from dual_image_clip.photos.listing import RECORD_NAME


def save(path: Path, pages: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (20, 20), (index, 0, 0)) for index in range(pages)]
    if pages > 1:
        images[0].save(path, save_all=True, append_images=images[1:])
    else:
        images[0].save(path)
    return path


def names(folder: Path) -> list[str]:
    return [Path(name).relative_to(folder).as_posix() for name in find_photos(folder).photos]


def test_photos_of_all_formats_in_the_order_of_their_names(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.gif", "d.jp2", "e.avif", "below/f.tif", "g.bmp", "h.webp"):
        save(tmp_path / name)
    save(tmp_path / "i.jpg").rename(tmp_path / "i.jfif")
    (tmp_path / "notes.txt").write_text("no photo")
    expected = ["a.jpg", "b.PNG", "c.gif", "d.jp2", "e.avif", "g.bmp", "h.webp", "i.jfif", "below/f.tif"]
    assert names(tmp_path) == expected
    assert find_photos(tmp_path).unusable == []


def test_every_page_is_a_photo_and_a_thumbnail_is_none(tmp_path):
    save(tmp_path / "a.tif", pages=3)
    save(tmp_path / "b.gif", pages=2)
    thumbnail = Image.new("RGB", (10, 10))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    Image.new("RGB", (20, 20)).save(tmp_path / "c.tif", save_all=True, append_images=[thumbnail])
    assert names(tmp_path) == ["a.tif", "a.tif#2", "a.tif#3", "b.gif", "b.gif#2", "c.tif"]


def test_what_is_of_no_use_is_listed_with_a_reason(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.NEF").write_bytes(b"raw")
    (tmp_path / "c.heic").write_bytes(b"heic")
    (tmp_path / "d.png").symlink_to(tmp_path / "gone.png")
    listing = find_photos(tmp_path)
    assert [Path(name).name for name in listing.photos] == ["a.png"]
    assert {Path(each.path).name: each.reason.split(":")[0] for each in listing.unusable} == {
        "b.NEF": "is a camera's raw file",
        "c.heic": "is a HEIC picture",
        "d.png": "is a link to a file that is not there",
    }
    for file in listing.unusable:
        with pytest.raises(UnusableImageError, match=re.escape(file.reason)):
            PhotoReader().read(file.path)


def test_linked_folders_are_searched_once(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    photos = tmp_path / "photos"
    save(photos / "b.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "loop").symlink_to(photos)
    assert names(photos) == ["b.png", "linked/a.png"]


def test_results_of_earlier_runs_are_left_out(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "results" / "latest" / "images" / "a.png")
    (tmp_path / "results" / "latest" / RECORD_NAME).write_text("{}")
    listing = find_photos(tmp_path)
    assert [Path(name).name for name in listing.photos] == ["a.png"]
    assert listing.results == [str(tmp_path / "results" / "latest")]


def test_a_single_file_and_none(tmp_path):
    path = save(tmp_path / "a.png")
    assert find_photos(path).photos == [str(path)]
    with pytest.raises(FileNotFoundError, match="there is no folder or file"):
        find_photos(tmp_path / "nowhere")


def test_pages_are_found_whatever_the_suffix_and_those_of_an_animated_png_too(tmp_path):
    save(tmp_path / "a.tif", pages=2).rename(tmp_path / "a.jpg")
    save(tmp_path / "b.png", pages=3)
    assert names(tmp_path) == ["a.jpg", "a.jpg#2", "b.png", "b.png#2", "b.png#3"]


def test_a_broken_page_is_named_and_hides_none_behind_it(tmp_path):
    path = save(tmp_path / "a.tif", pages=4)
    content = path.read_bytes()
    second = content.index(np.array([262, 3], "<u2").tobytes(), content.index(np.array([262, 3], "<u2").tobytes()) + 1)
    # Colours of a kind that there is not.
    path.write_bytes(content[: second + 8] + b"\x63" + content[second + 9 :])
    assert names(tmp_path) == ["a.tif", "a.tif#2", "a.tif#3", "a.tif#4"]
    with pytest.raises(UnusableImageError, match=r"a\.tif#2 cannot be read"):
        PhotoReader().read(f"{path}#2")
    assert PhotoReader().read(f"{path}#4")[0, 0, 0] == pytest.approx(3 / 255)


def test_an_animated_png_may_not_name_frames_that_it_has_not(tmp_path):
    path = save(tmp_path / "a.png", pages=2)
    content = path.read_bytes()
    start = content.index(b"acTL")
    claim = b"acTL" + (2**31).to_bytes(4) + bytes(4)
    path.write_bytes(content[:start] + claim + zlib.crc32(claim).to_bytes(4) + content[start + 16 :])
    assert names(tmp_path) == ["a.png", "a.png#2", "a.png#3"]


def test_a_file_cut_between_its_pages_says_so(tmp_path):
    path = save(tmp_path / "a.tif", pages=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3 - 4])
    *_, last = names(tmp_path)
    with pytest.raises(UnusableImageError, match="cannot be read as an image"):
        PhotoReader().read(tmp_path / last)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_file_is_not_opened(make, tmp_path):
    make(tmp_path / "a.png")
    listing = find_photos(tmp_path)
    assert listing.photos == []
    assert listing.unusable == [UnusableFile(str(tmp_path / "a.png"), "is no file")]
    with pytest.raises(UnusableImageError, match=r"a\.png is no file"):
        PhotoReader().read(tmp_path / "a.png")


def test_two_links_to_a_folder_are_one(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    for name in ("one", "two"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "photos") == ["one/a.png"]


@contextmanager
def as_nobody() -> Iterator[None]:
    """The rights of somebody who has none, also where tests are run by root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_may_not_be_searched_or_read_is_listed(tmp_path, monkeypatch):
    for name in ("a.png", "below/b.png", "named/c.png"):
        save(tmp_path / name)
    (tmp_path / "a.png").chmod(0o000)
    (tmp_path / "below").chmod(0o000)
    # What is in it is known by name only.
    (tmp_path / "named").chmod(0o444)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with as_nobody():
        listing = find_photos(".")
        with pytest.raises(UnusableImageError, match=r"a\.png cannot be read as an image \(Permission denied\)"):
            PhotoReader().read("a.png")
    for folder in ("below", "named"):
        (tmp_path / folder).chmod(0o755)
    assert listing.photos == ["a.png"]
    assert listing.unusable == [
        ("./below", "is a folder that cannot be searched (Permission denied)"),
        ("named/c.png", "cannot be read as an image (Permission denied)"),
    ]
