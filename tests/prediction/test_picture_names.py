"""Names of pictures: one for each photo, and telling which."""

import os

import pytest

from dual_image_clip.prediction.picture_names import PNG, picture_name, picture_names


def test_photos_keep_their_place_below_the_folder_they_share():
    photos = ["/shoot/a/x/1.png", "/shoot/b/x/1.png", "/shoot/2.jpg"]
    assert picture_names(photos) == dict(zip(photos, ["a/x/1.png", "b/x/1.png", "2.jpg"], strict=True))


def test_relative_paths_never_lead_out_of_the_folder_of_results():
    photos = [os.path.join("..", "shoot", "a", "1.png"), os.path.join("..", "shoot", "b", "1.png")]  # noqa: PTH118
    assert list(picture_names(photos).values()) == ["a/1.png", "b/1.png"]
    assert ".." not in picture_name(photos[0])


def test_one_photo_alone():
    assert picture_names(["/shoot/1.png"]) == {"/shoot/1.png": "1.png"}
    assert picture_names([]) == {}


def test_known_data_sets_keep_anomalibs_places():
    photos = ["/data/MVTecAD/bottle/test/scratch/000.png", "/data/MVTecAD/bottle/test/scratch/001.png"]
    assert list(picture_names(photos, "MVTecAD", "bottle").values()) == ["test/scratch/000.png", "test/scratch/001.png"]
    # Data sets that lie elsewhere than their name says.
    assert list(picture_names(photos, "Visa", "pcb").values()) == ["000.png", "001.png"]


@pytest.mark.parametrize(
    ("photos", "names"),
    [
        (["A.png", "a.png"], ["A.png", "a (2).png"]),
        (["é.png", "e\u0301.png"], ["e\u0301.png", "é (2).png"]),
        (["a.png", "a.jpg"], ["a.jpg", "a.png"]),
        (["b.heic", "b.heic.png", "B.HEIC"], ["B.HEIC.png", "b.heic (2).png", "b.heic (3).png"]),
        (["a.tif", "a.tif#2", "a.tif#3"], ["a.tif", "a.tif#2.png", "a.tif#3.png"]),
        (["b.gif", "b.gif.png/c.png", "b.gif.png/d.png"], ["b.gif (2).png", "b.gif.png/c.png", "b.gif.png/d.png"]),
        (["x.gif", "x.jp2", "x.jfif", "x.avif", "x"], ["x.png", "x.avif.png", "x.gif.png", "x.jfif.png", "x.jp2.png"]),
    ],
)
def test_names_that_a_file_system_may_take_for_one(photos, names):
    named = picture_names(f"/shoot/{photo}" for photo in photos)
    assert list(named.values()) == names
    assert [photo.removeprefix("/shoot/") for photo in named] == sorted(photos)


def test_maps_are_png_whatever_the_photo():
    assert list(picture_names(["/a.jpg", "/a.png"], formats=PNG).values()) == ["a.jpg.png", "a.png"]


def test_names_are_no_longer_than_file_systems_take():
    photos = [f"/shoot/{'ü' * 125}{suffix}" for suffix in (".tif", ".tif#2", ".tif#3", ".webp", ".gif")]
    names = picture_names(photos)
    assert names[photos[0]] == f"{'ü' * 125}.tif"
    assert names[photos[1]] == f"{'ü' * 122}.tif#2.png"
    assert len(set(names.values())) == 5
    assert max(len(name.encode()) for name in names.values()) <= 255
    alike = picture_names([f"/shoot/{letter}{'n' * 250}.gif" for letter in "ab"])
    assert len(set(alike.values())) == 2
    assert max(map(len, alike.values())) <= 255
