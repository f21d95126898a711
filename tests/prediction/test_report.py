"""List and report of made-up outcomes."""

import base64
import csv
import html
import io
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from dual_image_clip.defects import find_defects
from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.html_report import IMAGES_A_PAGE, write_report
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, printable, rank, write_csv
from dual_image_clip.prediction.sketch import make_sketch

SKETCH = make_sketch(torch.rand(3, 32, 32), torch.rand(32, 32))


def outcome(count, threshold=0.5, total=None, unusable=()):
    scores = [index / count for index in range(count)]
    found = [
        Prediction(f"/photos/{index}.png", score, decide(score, threshold), 1, SKETCH)
        for index, score in enumerate(scores)
    ]
    return Outcome(rank(found), {"": threshold}, list(unusable), count + len(unusable) if total is None else total)


def with_one(**changes):
    found = outcome(1)
    return found._replace(predictions=[found.predictions[0]._replace(**changes)])


def report(found, folder):
    folder.mkdir(exist_ok=True)
    write_report(found, {"class_name": "nut <b>"}, {"torch": "1"}, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_without_scripts_everything_is_shown(tmp_path):
    page = report(outcome(2 * IMAGES_A_PAGE + 1), tmp_path)
    cards = re.findall(r"<li [^>]*>", page)
    assert len(cards) == 2 * IMAGES_A_PAGE + 1
    assert not any("hidden" in card or "later" in card for card in cards)
    assert "<template" not in page
    assert page.index('alt="100.png"') < page.index('alt="0.png"')
    assert all("hidden" in each for each in re.findall("<(?:nav|form) [^>]*>", page))


def test_each_product_has_its_part(tmp_path):
    nuts, caps = outcome(9), outcome(12, threshold=None)
    found = [
        [each._replace(product=name, path=f"/photos/{name}{each.path[7:]}") for each in part.predictions]
        for name, part in (("nut & bolt", nuts), ("cap", caps))
    ]
    page = report(Outcome([*found[0], *found[1]], {"nut & bolt": 0.5, "cap": None}, [], 21), tmp_path)
    assert "2 products: 4 of 21 images anomalous" in page
    first, second = re.findall(r"<section.*?</section>", page, re.DOTALL)
    assert "<h2>nut &amp; bolt: 4 of 9 images anomalous</h2>" in first
    assert "<h2>cap: 0 of 12 images anomalous</h2>" in second
    assert [part.count("<li ") for part in (first, second)] == [9, 12]
    assert [part.count('class="threshold"') for part in (first, second)] == [1, 0]
    assert [sum(map(int, re.findall(r"<title>(\d+) from", part))) for part in (first, second)] == [9, 12]
    assert "<option>nut &amp; bolt</option>" in page


def test_what_a_reader_has_to_know_is_said(tmp_path):
    page = report(outcome(9, total=20, unusable=[UnusableFile("/photos/<i>.png", "a & b")]), tmp_path)
    assert "10 of 20 files were not looked at" in page
    assert "<td>&lt;i&gt;.png</td><td>a &amp; b</td>" in page
    assert "nut &lt;b&gt;: 4 of 9 images anomalous" in page
    assert 'class="threshold"' in page
    complete = report(outcome(9), tmp_path)
    assert "not looked at" not in complete
    assert "could not be used" not in complete


def test_without_threshold_nothing_is_called_normal(tmp_path):
    page = report(outcome(3, threshold=None), tmp_path)
    assert 'class="threshold"' not in page
    assert "at least eight images" in page
    assert ">normal<" not in page
    assert page.count(">undecided<") == 3


def test_a_run_without_any_image_still_lists_files(tmp_path):
    page = report(outcome(0, unusable=[UnusableFile("/photos/a.png", "empty")]), tmp_path)
    assert "No image was scored" in page
    assert "<td>a.png</td>" in page


@pytest.mark.parametrize("name", ["a, b.png", 'quo"te.png', "line\nbreak.png", "Schraube-ß-螺.png"])
def test_any_name_survives_the_list(name, tmp_path):
    found = Outcome([Prediction(name, 0.25, "normal", 2, SKETCH)], {"": 0.5}, [], 1)
    write_csv(found, tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "path": name,
        "score": "0.250000",
        "label": "normal",
        "threshold": "0.500000",
        "num_references": "2",
        "defects": "0",
        "largest_defect": "0",
    }


NAMES = ["a b.png", "a#2.png", "a?b=c&d.png", "100%25.png", "\"x'.png", "a:b.png", "sch\u00f6n.png", "caf\udce9.png"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_list_and_report_name_the_files(name, tmp_path):
    for folder in ("photos", "out/images"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        try:
            (tmp_path / folder / name).touch()
        except OSError:
            pytest.skip("the file system takes UTF-8 names only")
    found = with_one(path=str(tmp_path / "photos" / name), heatmap=f"images/{name}")
    write_csv(found, tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        assert [row["heatmap"] for row in csv.DictReader(file)] == [printable(f"images/{name}")]
    links = re.findall('<a href="([^"]*)">', report(found, tmp_path / "out"))
    addresses = [urlsplit(urljoin((tmp_path / "out" / "report.html").as_uri(), html.unescape(each))) for each in links]
    assert [each.query + each.fragment for each in addresses] == ["", ""]
    assert [Path(os.fsdecode(unquote_to_bytes(each.path))) for each in addresses] == [
        tmp_path / "photos" / name,
        tmp_path / "out" / "images" / name,
    ]


def test_the_page_of_a_file_leads_to_the_file_and_what_is_no_file_nowhere(tmp_path):
    (tmp_path / "a.tif").touch()
    assert '<a href="a.tif">' in report(with_one(path=str(tmp_path / "a.tif#2")), tmp_path)
    assert "<a href" not in report(with_one(path="image 0.1"), tmp_path)


def test_defects_are_counted_and_outlined(tmp_path):
    scores = torch.zeros(60, 90)
    scores[20:40, 30:60] = scores[2, 2] = 0.9
    defects = find_defects(scores, 0.5, (600, 900))
    plain = make_sketch(torch.full((3, 60, 90), 0.5), torch.zeros(60, 90))
    page = report(with_one(sketch=plain, defects=defects, size=(600, 900)), tmp_path)
    assert f"2 defects, the largest {defects[0].area:,} pixels" in page
    photo, overlay = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).astype(int)
        for each in re.findall('base64,([^"]*)', page)
    )
    drawn = np.abs(np.diff(overlay, axis=1)).sum(axis=-1) > 60
    height, width = photo.shape[:2]
    assert drawn[:, int(0.25 * width) : int(0.36 * width)].any()
    assert not drawn[int(0.4 * height) : int(0.6 * height), int(0.4 * width) : int(0.6 * width)].any()
    assert not drawn[int(0.8 * height) :].any()


@pytest.mark.parametrize(("size", "shape"), [((40, 400), "wide"), ((400, 40), "tall"), ((32, 40), "")])
def test_long_photos_are_given_room(size, shape, tmp_path):
    page = report(with_one(sketch=make_sketch(torch.rand(3, *size), torch.rand(size))), tmp_path)
    assert f'<li class="card normal {shape}" ' in page


def test_equal_scores_are_in_the_order_of_names():
    found = [Prediction(name, 0.5, "normal", 1, SKETCH) for name in "bca"]
    assert [each.path for each in rank(found)] == ["a", "b", "c"]
