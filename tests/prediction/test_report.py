"""List and report of made-up outcomes."""

import csv
import re
from urllib.parse import quote

import pytest
import torch

from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction.html_report import IMAGES_A_PAGE, write_report
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, rank, write_csv
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
    write_report(found, {"class_name": "nut <b>"}, {"torch": "1"}, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_pages_are_inert_until_they_are_shown(tmp_path):
    page = report(outcome(2 * IMAGES_A_PAGE + 1), tmp_path)
    templates = re.findall(r'<template class="page">(.*?)</template>', page, re.DOTALL)
    assert [template.count("<li ") for template in templates] == [IMAGES_A_PAGE, IMAGES_A_PAGE, 1]
    assert "<img" not in re.sub(r"<template.*?</template>", "", page, flags=re.DOTALL)
    assert page.index('alt="100.png"') < page.index('alt="0.png"')
    assert page.count("<nav") == 2


def test_one_page_has_no_buttons(tmp_path):
    assert "<nav" not in report(outcome(IMAGES_A_PAGE), tmp_path)


def test_what_a_reader_has_to_know_is_said(tmp_path):
    page = report(outcome(9, total=20, unusable=[UnusableFile("/photos/<i>.png", "a & b")]), tmp_path)
    assert "10 of 20 files were not looked at" in page
    assert "<td>&lt;i&gt;.png</td><td>a &amp; b</td>" in page
    assert "nut &lt;b&gt;: 4 of 9 images anomalous" in page
    assert 'id="threshold"' in page
    complete = report(outcome(9), tmp_path)
    assert "not looked at" not in complete
    assert "could not be used" not in complete


def test_without_threshold_nothing_is_called_normal(tmp_path):
    page = report(outcome(3, threshold=None), tmp_path)
    assert 'id="threshold"' not in page
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


@pytest.mark.parametrize("name", ["images/a b.png", "images/a#2.png", 'images/"x".png'])
def test_list_and_report_name_the_heatmap(name, tmp_path):
    found = with_one(heatmap=name)
    write_csv(found, tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        assert [row["heatmap"] for row in csv.DictReader(file)] == [name]
    assert f'<a href="{quote(name)}">' in report(found, tmp_path)
    assert "<a href" not in report(with_one(), tmp_path)


@pytest.mark.parametrize(("size", "shape"), [((40, 400), "wide"), ((400, 40), "tall"), ((32, 40), "")])
def test_long_photos_are_given_room(size, shape, tmp_path):
    page = report(with_one(sketch=make_sketch(torch.rand(3, *size), torch.rand(size))), tmp_path)
    assert f'<li class="card normal {shape}">' in page


def test_equal_scores_are_in_the_order_of_names():
    found = [Prediction(name, 0.5, "normal", 1, SKETCH) for name in "bca"]
    assert [each.path for each in rank(found)] == ["a", "b", "c"]
