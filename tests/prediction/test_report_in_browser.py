"""The report as a reader uses it: sorted, filtered, leafed through and printed, from a file, in headless Chromium."""

import base64
import re

import pytest
import torch
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from dual_image_clip.defects import Defect
from dual_image_clip.prediction import Outcome, Prediction, decide, make_sketch
from dual_image_clip.prediction.html_report import IMAGES_A_PAGE, write_report
from tests.browser import start_chromium

SKETCH = make_sketch(torch.rand(3, 32, 32), torch.rand(32, 32))
COUNT = IMAGES_A_PAGE + 7


def defect(area: int) -> Defect:
    return Defect((1, 1, 9, 9), ((1, 1), (10, 1), (10, 10), (1, 10)), area, area / 1024, 0.9, 0.8)


def prediction(index: int, folder, product: str) -> Prediction:
    score = 1 - index / 100
    label = decide(score, 0.9)
    # Of those that are anomalous, the least suspicious has the largest defect.
    defects = (defect(10 + index),) if label == "anomalous" else ()
    path = folder / product / f"{(7 * index) % 100}.png"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch()
    return Prediction(str(path), score, label, 1, SKETCH, defects=defects, product=product, size=(32, 32))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    products = {"cap & nut": COUNT, "b": 3}
    found = [prediction(index, folder / "photos", name) for name, count in products.items() for index in range(count)]
    outcome = Outcome(found, dict.fromkeys(products, 0.9), [], len(found))
    write_report(outcome, {"class_name": "nut"}, {"torch": "1"}, folder / "report.html")
    return folder / "report.html"


class Page:
    def __init__(self, browser, report):
        self.browser = browser
        browser.get(report.as_uri())

    def names(self) -> list[str]:
        """Names below the images that are seen, from top to bottom."""
        script = (
            "return [...document.querySelectorAll('.card')].filter(e => e.checkVisibility()).map(e => e.dataset.name)"
        )
        return self.browser.execute_script(script)

    def choose(self, name: str, option: str) -> None:
        Select(self.browser.find_element(By.NAME, name)).select_by_visible_text(option)

    @property
    def count(self) -> str:
        return self.browser.find_element(By.ID, "count").text


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = start_chromium(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads"))
    yield chromium
    chromium.quit()


def number(name: str) -> int:
    return int(re.findall(r"(\d+)\.png", name)[0])


def test_a_reader_sorts_filters_and_leafs(report, browser):
    page = Page(browser, report)
    ranked = [f"cap & nut/{(7 * index) % 100}.png" for index in range(COUNT)]
    others = [f"b/{7 * index}.png" for index in range(3)]
    assert page.names() == ranked[:IMAGES_A_PAGE] + others
    assert page.count == f"{COUNT + 3} of {COUNT + 3} images"
    following = browser.find_element(By.CSS_SELECTOR, "section nav button[data-step='1']")
    following.click()
    assert page.names() == ranked[IMAGES_A_PAGE:] + others
    assert not following.is_enabled()

    page.choose("order", "name")
    assert page.names() == sorted(ranked, key=number)[:IMAGES_A_PAGE] + others
    page.choose("label", "anomalous")
    assert page.names() == sorted(ranked[:10], key=number) + others
    page.choose("order", "largest defect")
    assert page.names() == ranked[:10][::-1] + others[::-1]
    assert page.count == f"13 of {COUNT + 3} images"
    page.choose("product", "cap & nut")
    assert page.names() == ranked[:10][::-1]
    page.choose("label", "normal")
    page.choose("order", "score")
    assert page.names() == ranked[10:COUNT]
    page.choose("product", "b")
    assert (page.names(), page.count) == ([], f"0 of {COUNT + 3} images")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_links_lead_to_the_files(report, browser):
    page = Page(browser, report)
    assert page.names()
    links = [each.get_attribute("href") for each in browser.find_elements(By.CSS_SELECTOR, ".card a")][:COUNT]
    assert links[0] == (report.parent / "photos" / "cap & nut" / "0.png").as_uri().replace("&", "%26")
    assert len(set(links)) == COUNT


def test_what_is_printed_are_all_pages_of_what_was_chosen(report, browser):
    page = Page(browser, report)
    page.choose("label", "normal")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert len(page.names()) == COUNT - 10
        assert not browser.find_element(By.TAG_NAME, "form").is_displayed()
        assert not any(each.is_displayed() for each in browser.find_elements(By.TAG_NAME, "button"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(browser.print_page())
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3


def test_without_scripts_all_images_are_shown(report, tmp_path_factory):
    chromium = start_chromium(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("d"), javascript=False)
    try:
        chromium.get(report.as_uri())
        cards = chromium.find_elements(By.CSS_SELECTOR, ".card")
        assert [each.is_displayed() for each in cards] == [True] * (COUNT + 3)
        assert not chromium.find_element(By.TAG_NAME, "form").is_displayed()
    finally:
        chromium.quit()
