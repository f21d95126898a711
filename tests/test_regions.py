import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from dual_image_clip.photos import PhotoReader, UnusableImageError, read_mask
from dual_image_clip.regions import RegionError, load_regions
from tests.drawn_data import save
from tests.helpers import refusal

SIZE, SMALL, FINE = (60, 90), (8, 10), 4
WHOLE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def write(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def rectangle(size, top, left, bottom, right) -> np.ndarray:
    """White from top to bottom and from left to right, in shares."""
    height, width = size
    picture = np.zeros(size, np.uint8)
    picture[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 255
    return picture


def inside(x: float, y: float, polygon) -> bool:
    """Whether a ray to the right crosses the outline an odd number of times."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossings += 1
    return crossings % 2 == 1


# Polygons


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corner=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=6, max_size=6))
def test_a_pixel_counts_where_half_of_it_is_in_a_polygon(corner, tmp_path):
    polygons = [list(map(list, corner[:3])), list(map(list, corner[3:]))]
    try:
        mask = load_regions(write(tmp_path / "r.json", {"polygons": polygons})).mask(None, SMALL)
    except RegionError:
        return
    shares = torch.zeros(SMALL)
    for row, column in product(range(SMALL[0]), range(SMALL[1])):
        points = product(range(FINE), range(FINE))
        places = [((column + (dx + 0.5) / FINE) / SMALL[1], (row + (dy + 0.5) / FINE) / SMALL[0]) for dx, dy in points]
        shares[row, column] = sum(any(inside(*place, each) for each in polygons) for place in places) / FINE**2
    assert mask.any()
    assert mask[shares > 0.75].all()
    nearby = F.max_pool2d(shares[None], 3, stride=1, padding=1)[0]
    assert not mask[nearby == 0].any()


def test_polygons_need_no_wrapping(tmp_path):
    mask = load_regions(write(tmp_path / "r.json", [WHOLE])).mask("any.png", SIZE)
    assert mask.shape == SIZE
    assert mask.all()


def test_overlapping_polygons_are_joined(tmp_path):
    regions = load_regions(write(tmp_path / "r.json", {"polygons": [WHOLE, WHOLE]}))
    assert regions.mask(None, SIZE).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ({"polygons": []}, "has no polygons"),
        ({"polygon": [WHOLE]}, "has no polygons"),
        (3, "has no polygons"),
        ([WHOLE[:2]], "polygon 1 of .* at least 3 corners"),
        ([WHOLE, [[0, 0], [1.2, 0], [1, 1]]], r"polygon 2 of .* corner \[1.2, 0\]"),
        ([[[0, 0], [-0.1, 0], [1, 1]]], "within 0..1"),
        ("[[[0, 0], [NaN, 0], [1, 1]]]", "within 0..1"),
        ([[[0, 0], ["a", 0], [1, 1]]], "within 0..1"),
        ([[[0, 0], [True, 0], [1, 1]]], "within 0..1"),
        ([[[0, 0], [0.5, 0.5], [1, 1]]], "is empty"),
    ],
)
def test_bad_polygons_are_told_with_their_file(content, said, tmp_path):
    with pytest.raises(RegionError, match=said) as error:
        load_regions(write(tmp_path / "r.json", content))
    assert "r.json" in str(error.value)
    assert "\n" not in str(error.value)


# One picture


@pytest.mark.parametrize("size", [(60, 90), (600, 900), (20, 30), (7, 10)])
def test_a_picture_may_have_any_size(size, tmp_path):
    source = save(rectangle(size, 0, 0, 0.5, 1), tmp_path / "mask.png")
    mask = load_regions(source).mask(None, SIZE)
    assert mask.shape == SIZE
    assert mask[:25].all()
    assert not mask[35:].any()


def test_white_is_bright_in_colour_and_in_16_bits(tmp_path):
    half = rectangle(SIZE, 0, 0, 1, 0.5)
    colour = save(np.stack([half] * 3, axis=-1), tmp_path / "colour.png")
    deep = tmp_path / "deep.png"
    Image.fromarray(half.astype(np.uint16) * 257).save(deep)
    for source in (colour, deep):
        assert load_regions(source).mask(None, SIZE).numpy().tolist() == (half > 0).tolist()


def test_what_a_lossy_format_adds_to_black_does_not_count(tmp_path):
    noisy = np.where(rectangle(SIZE, 0, 0, 0.5, 1) > 0, 250, 12).astype(np.uint8)
    mask = load_regions(save(noisy, tmp_path / "mask.png")).mask(None, SIZE)
    assert mask.sum() == mask.numel() // 2


def test_a_speck_stays_a_region(tmp_path):
    picture = np.zeros((600, 900), np.uint8)
    picture[300, 400] = 255
    mask = load_regions(save(picture, tmp_path / "mask.png")).mask(None, SIZE)
    assert mask.sum() == 1
    assert mask[30, 40]


@pytest.mark.parametrize("value", [0, 1, 100])
def test_a_picture_without_white_is_refused(value, tmp_path):
    source = save(np.full(SIZE, value, np.uint8), tmp_path / "black.png")
    with pytest.raises(RegionError, match=r"nothing is white in .*black.png: white is inspected"):
        load_regions(source)


def test_a_picture_of_another_aspect_is_refused_for_the_photo(tmp_path):
    source = save(rectangle((60, 60), 0, 0, 1, 1), tmp_path / "mask.png")
    regions = load_regions(source)
    reader = PhotoReader(regions=regions)
    photo = save(np.zeros((60, 90, 3), np.uint8), tmp_path / "photo.png")
    with pytest.raises(
        UnusableImageError, match=r"photo.png has 60×90 pixels .* another aspect than its region .*mask"
    ):
        reader.read(photo)
    reader.read(save(np.zeros((90, 90, 3), np.uint8), tmp_path / "square.png"))


@pytest.mark.parametrize("size", [(1000, 1501), (40, 60), (333, 500), (2, 3)])
def test_rounded_sides_are_the_same_aspect(size, tmp_path):
    regions = load_regions(save(rectangle((60, 90), 0, 0, 1, 1), tmp_path / "mask.png"))
    assert refusal(regions.require_fits, size, "photo.png") is None
    assert "another aspect" in str(
        refusal(regions.require_fits, (size[0], size[1] + max(2, size[1] // 20)), "photo.png")
    )


# A folder


@pytest.fixture
def folder(tmp_path):
    save(rectangle(SIZE, 0, 0, 0.5, 1), tmp_path / "masks" / "a.png")
    save(rectangle(SIZE, 0.5, 0, 1, 1), tmp_path / "masks" / "b.bmp")
    return tmp_path / "masks"


def test_each_photo_has_the_mask_of_its_name(folder, tmp_path):
    regions = load_regions(folder)
    upper, lower = (regions.mask(str(tmp_path / "photos" / name), SIZE) for name in ("a.jpg", "b.png"))
    assert upper[:30].all()
    assert not upper[30:].any()
    assert (upper ^ lower).all()


def test_photos_of_one_name_have_the_masks_of_their_folders(tmp_path):
    for name, left in (("one", 0), ("two", 0.5)):
        save(rectangle(SIZE, 0, left, 1, left + 0.5), tmp_path / "masks" / name / "000.png")
    regions = load_regions(tmp_path / "masks")
    assert regions.mask(str(tmp_path / "photos" / "one" / "000.jpg"), SIZE)[:, :45].all()
    assert regions.mask(str(tmp_path / "photos" / "two" / "000.jpg"), SIZE)[:, 45:].all()
    with pytest.raises(UnusableImageError, match="several masks"):
        regions.mask("photos/000.jpg", SIZE)


def test_a_mask_drawn_as_the_sensor_lies_is_turned_with_the_photo(tmp_path):
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (90, 60)).save(photo, exif=exif)
    save(rectangle((60, 90), 0, 0, 1, 0.5), tmp_path / "masks" / "a.png")
    mask = load_regions(tmp_path / "masks").mask(str(photo), (90, 60))
    # The left of the sensor is above.
    assert mask[:45].all()
    assert not mask[45:].any()


def test_a_mask_is_read_once_for_a_photo_and_again_when_it_changes(folder, tmp_path, monkeypatch):
    photo = save(np.zeros((*SIZE, 3), np.uint8), tmp_path / "photos" / "a.png")
    read: list[Path] = []
    monkeypatch.setattr(
        "dual_image_clip.regions.read_mask", lambda path, *others: read.append(path) or read_mask(path, *others)
    )
    regions = load_regions(folder)
    PhotoReader(regions=regions).read(photo)
    before = regions.mask(str(photo), SIZE)
    assert read == [folder / "a.png"]
    save(rectangle(SIZE, 0.5, 0, 1, 1), folder / "a.png")
    os.utime(folder / "a.png", ns=(1, 1))
    assert (regions.mask(str(photo), SIZE) ^ before).all()
    assert read == 2 * [folder / "a.png"]


def test_a_photo_without_a_mask_is_named(folder):
    with pytest.raises(UnusableImageError, match=r"c.png has no mask in .*masks, where c.png was expected"):
        PhotoReader(regions=load_regions(folder)).require_shape(SIZE, "photos/c.png")
    with pytest.raises(UnusableImageError, match="has no name"):
        load_regions(folder).mask(None, SIZE)


def test_an_empty_mask_of_a_folder_is_named(folder):
    save(np.zeros(SIZE, np.uint8), folder / "c.png")
    with pytest.raises(UnusableImageError, match=r"c.jpg has the mask .*masks.c.png, in which nothing is white"):
        load_regions(folder).require_fits(SIZE, "photos/c.jpg")


def test_a_broken_mask_of_a_folder_is_named(folder):
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.raises(UnusableImageError, match=r"c.jpg has a mask that cannot be used: .*masks.c.png cannot be read"):
        load_regions(folder).require_fits(SIZE, "photos/c.jpg")


def test_a_mask_of_another_aspect_is_named(folder):
    with pytest.raises(UnusableImageError, match=r"a.jpg has 60×60 .* another aspect than its region .*masks.a.png"):
        load_regions(folder).require_fits((60, 60), "photos/a.jpg")


# What is none


@pytest.mark.parametrize("name", ["missing.png", "missing"])
def test_a_missing_file_is_told(name, tmp_path):
    with pytest.raises(RegionError, match=r"there is no file or folder .*missing"):
        load_regions(tmp_path / name)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(RegionError, match=r"r.txt is neither a picture, nor a folder"):
        load_regions(write(tmp_path / "r.txt", "x"))
    with pytest.raises(RegionError, match=r"broken.png cannot be read as an image"):
        load_regions(write(tmp_path / "broken.png", "x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegionError, match=r"no pictures in .*empty"):
        load_regions(tmp_path / "empty")
