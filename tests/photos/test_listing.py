"""Which files of a folder are photos."""

from pathlib import Path

import pytest
from PIL import Image

from dual_image_clip.photos import find_photos
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
