"""The real page of a real server, driven by headless Chromium."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from dual_image_clip.prediction import Outcome
from dual_image_clip.ui.page import build_page, find_mistake
from tests.browser import find_chromium, start_chromium
from tests.drawn_data import draw_plate, make_photos, save
from tests.ui.canned import CannedScorer

PATIENCE = 120


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server with the checkpoint inside the package."""
    find_chromium()
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "dual_image_clip.cli", "ui", "--backbone", "dual-image-clip-demo"]
    log = folder / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: server.poll() is not None or "Open http" in log.read_text(), "the server's start")
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE)
    assert code == 130
    assert "Traceback" not in log.read_text()
    assert not list(folder.glob("dual-image-clip-ui-*")), "uploads were left behind"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    chromium = start_chromium(tmp_path_factory.mktemp("profile"), downloads)
    chromium.downloads = downloads
    yield chromium
    chromium.quit()


@pytest.fixture
def page(address, browser):
    return Page(browser, address)


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    return pytest.fail(f"waited in vain for {what}")


class Page:
    """What a user sees and does."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address
        browser.get(address)
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#score"), "the page")

    def find(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent.trim())"
        return self.browser.execute_script(script, selector)

    def upload(self, paths):
        self.find("#files input[type=file]").send_keys("\n".join(map(str, paths)))
        wait_for(lambda: len(self.texts("#files tr.file")) == len(paths), "the upload")

    def score(self, class_name, expected):
        self.find("#class-name textarea, #class-name input").send_keys(class_name)
        self.find("#score").click()
        return wait_for(lambda: self.message if expected in self.message else "", f"{expected!r}")

    @property
    def message(self):
        return self.find("#message").text

    @property
    def captions(self):
        return self.texts("#pictures .caption-label")

    @property
    def labels(self):
        return [caption.rsplit(", ", 1)[1] for caption in self.captions]

    @property
    def scores(self):
        return {name: float(rest[:5]) for name, rest in (caption.split(": ") for caption in self.captions)}

    def move(self, slider, key):
        self.find(f"#{slider} input[type=range]").send_keys(key)

    def picture(self, index):
        """An image of the gallery, as the server gives it."""
        source = self.browser.find_elements(By.CSS_SELECTOR, "#pictures .thumbnail-item img")[index]
        with urllib.request.urlopen(source.get_attribute("src"), timeout=PATIENCE) as answer:  # noqa: S310
            return np.asarray(Image.open(io.BytesIO(answer.read()))).astype(float)

    def download(self):
        target = self.browser.downloads / "predictions.csv"
        target.unlink(missing_ok=True)
        self.find("#download").click()
        wait_for(target.exists, "the download")
        return list(csv.DictReader(target.read_text().splitlines()))


def test_from_upload_to_csv(page, address, tmp_path):
    make_photos(tmp_path / "plates", normal=6, defective=2)
    save(draw_plate(50, (120, 200))[0], tmp_path / "plates" / "wide.png")
    (tmp_path / "plates" / "broken.png").write_text("no image")
    with (tmp_path / "plates" / "heavy.png").open("wb") as file:
        file.truncate(51 * 2**20)
    page.upload(sorted((tmp_path / "plates").iterdir()))

    message = page.score("metal plate", "9 images scored, ")
    assert "broken.png cannot be read as an image" in message
    assert "heavy.png has 51 MB, more than 50 MB" in message

    captions = wait_for(lambda: page.captions, "the gallery")
    parsed = [re.fullmatch(r"(\S+): (0\.\d{3}), (\w+)", caption).groups() for caption in captions]
    names, scores, labels = zip(*parsed, strict=True)
    assert set(names[:2]) == {"spoilt_000.png", "spoilt_001.png"}
    assert set(names[2:]) == {"wide.png", *(f"plate_{index:03}.png" for index in range(6))}
    assert list(scores) == sorted(scores, reverse=True)
    # The defects, and at most the photo of another shape.
    found = labels.count("anomalous")
    assert found in {2, 3}
    assert labels == ("anomalous",) * found + ("normal",) * (9 - found)
    assert f"9 images scored, {found} anomalous." in message
    cells = page.texts("#rows .virtual-row > *")
    assert cells[:12] == [cell for rank, row in enumerate(parsed[:3], start=1) for cell in (str(rank), *row)]

    rows = page.download()
    assert list(rows[0]) == ["path", "score", "label", "threshold", "num_references", "defects", "largest_defect"]
    assert [(row["path"], f"{float(row['score']):.3f}", row["label"]) for row in rows] == parsed
    threshold = float(rows[0]["threshold"])
    shown = float(page.find("#threshold input[type=number]").get_attribute("value"))
    assert shown == pytest.approx(threshold, abs=0.0006)
    assert float(scores[found]) < threshold < float(scores[found - 1])

    _threshold_slider(page, names)
    _opacity_slider(page, tmp_path / "plates" / names[0])
    page.find("#pictures .thumbnail-item").click()
    wait_for(lambda: page.texts("#pictures [title=Download]"), "the enlarged picture")
    assert not page.texts("#pictures [title=Share]")
    _nothing_left_loopback(page.browser, address)


def _threshold_slider(page, names):
    page.move("threshold", Keys.END)
    wait_for(lambda: page.labels == ["normal"] * 9, "labels of the threshold 1")
    assert "9 images scored, 0 anomalous." in page.message
    page.move("threshold", Keys.HOME)
    wait_for(lambda: page.labels == ["anomalous"] * 9, "labels of the threshold 0")
    wait_for(lambda: "9 images scored, 9 anomalous." in page.message, "the summary of the threshold 0")
    rows = page.download()
    assert [row["path"] for row in rows] == list(names)
    assert {(row["label"], row["threshold"]) for row in rows} == {("anomalous", "0.000000")}


def _opacity_slider(page, path):
    """At 0 the photo itself is seen, at 1 nothing of it."""
    photo = np.asarray(Image.open(path)).astype(float)
    # Nothing is outlined above the highest score.
    page.move("threshold", Keys.END)
    wait_for(lambda: page.labels == ["normal"] * 9, "labels of the threshold 1")
    page.move("opacity", Keys.HOME)
    # Two JPEGs change the noise of a plate by 3.3; a heatmap of an opacity of 0.05 would make that 6.1.
    wait_for(lambda: abs(page.picture(0) - photo).mean() < 4.5, "the bare photo")
    page.move("opacity", Keys.END)
    # The spot of the plate is dark, its heat red, what surrounds it blue.
    spot = photo.mean(axis=-1) < 80

    def is_heat():
        red_minus_blue = page.picture(0) @ [1, 0, -1]
        return red_minus_blue[spot].mean() > 80 and red_minus_blue[~spot].mean() < -50

    wait_for(is_heat, "the bare heatmap")
    assert page.labels == ["normal"] * 9
    page.move("opacity", Keys.PAGE_DOWN)


def _nothing_left_loopback(browser, address):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert len([url for url in requests if url.startswith(address)]) > 20
    assert [url for url in requests if not url.startswith((address, "data:", "blob:", "chrome:"))] == []


def test_a_good_image_is_accepted_and_then_scores_lower(page, tmp_path):
    # Their hole belongs there.
    photos = sorted(make_photos(tmp_path / "plates", normal=8, defective=2).iterdir())
    page.upload(photos)
    assert page.find("#golden").text == "0 golden samples."
    assert not page.find("#accept").is_enabled()
    assert "2 anomalous" in page.score("metal plate", "10 images scored, ")
    before = wait_for(lambda: page.scores, "the gallery")
    assert next(iter(before)) == "spoilt_000.png"

    page.find("#pictures .thumbnail-item").click()
    wait_for(lambda: page.find("#accept").text == "Accept as good: spoilt_000.png", "the selection")
    page.find("#pictures .thumbnails button:nth-child(2)").click()
    wait_for(lambda: page.find("#accept").text == "Accept as good: spoilt_001.png", "the next selection")
    page.find("#pictures .thumbnails button:nth-child(1)").click()
    wait_for(lambda: page.find("#accept").text == "Accept as good: spoilt_000.png", "the selection again")
    page.find("#accept").click()
    wait_for(lambda: page.message.startswith("spoilt_000.png is a golden sample now: press Score"), "the acceptance")
    wait_for(lambda: page.find("#golden").text.startswith("1 golden sample. 1 accepted here"), "the count")
    page.find("#accept").click()
    wait_for(lambda: page.message == "spoilt_000.png is a golden sample already.", "that it is one already")

    wait_for(lambda: page.find("#accepted").is_enabled(), "the file to download")
    page.find("#accepted").click()
    target = wait_for(lambda: [*page.browser.downloads.glob("accepted.zip")], "the download")[0]
    with zipfile.ZipFile(target) as archive, archive.open("spoilt_000.png") as file:
        assert archive.namelist() == ["spoilt_000.png"]
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(tmp_path / "plates/spoilt_000.png")))

    page.find("#score").click()
    wait_for(lambda: "10 images scored, 1 anomalous." in page.message, "scores beside the golden sample")
    after = wait_for(lambda: page.scores != before and page.scores, "the gallery")
    assert next(iter(after)) == "spoilt_001.png"
    assert all(after[name] < before[name] - 0.1 for name in ("spoilt_000.png", "spoilt_001.png"))
    wait_for(lambda: not page.texts("#pictures .thumbnails button"), "no picture to be enlarged")
    assert page.find("#accept").text == "Accept as good"
    # Somebody else's page, or one that is loaded anew, begins with the server's.
    other = Page(page.browser, page.address)
    assert other.find("#golden").text == "0 golden samples."


def test_browsers_are_told_to_load_nothing_from_elsewhere(address):
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:  # noqa: S310
        assert answer.headers["content-security-policy"].startswith("default-src 'self' ")
        assert "http" not in answer.headers["content-security-policy"]


def test_missing_class_name_and_missing_images(page, tmp_path):
    page.score("", "Add some images first.")
    page.upload([save(draw_plate(0)[0], tmp_path / "a.png")])
    page.score("", "The class name '' has no letters")
    assert page.captions == []
    message = page.score("plate", "1 image scored")
    assert "text alone" in message
    assert "takes eight" in message
    assert wait_for(lambda: page.labels, "the gallery") == ["undecided"]


def test_find_mistake():
    assert find_mistake(None, "plate") == "Add some images first."
    assert "The class name ' 12 ' has no letters" in find_mistake(["a.png"], " 12 ")
    assert "201 images are too many" in find_mistake(["a.png"] * 201, "plate")
    assert find_mistake(["a.png"] * 200, "plate") == ""


def test_the_page_begins_with_what_the_server_was_given():
    page = build_page(CannedScorer(pytest.fail, num_golden=4, threshold=0.3254))
    values = {each.elem_id: each.value for each in page.blocks.values() if getattr(each, "elem_id", None)}
    assert values["threshold"] == 0.325
    assert values["golden"] == "<strong>4 golden samples.</strong>"


@pytest.mark.parametrize("calibrated", [True, False])
def test_the_slider_moves_the_threshold_of_pixels_unless_it_was_calibrated(calibrated, monkeypatch):
    asked = []
    monkeypatch.setattr("dual_image_clip.ui.page.relabel", lambda outcome, *how: asked.append(how) or outcome)
    scorer = CannedScorer(lambda *_: pytest.fail("was scored again"))
    scorer.has_pixel_threshold = calibrated
    functions = {each.fn.__name__: each.fn for each in build_page(scorer).fns.values() if each.fn}
    functions["move_threshold"](Outcome([], {"": 0.5}, [], 0), 0.7, 0.5)
    assert asked == [(0.7, not calibrated)]


def test_sliders_do_not_score():
    outcome = Outcome([], {"": 0.5}, [], 0)
    page = build_page(CannedScorer(lambda *_: pytest.fail("was scored again")))
    functions = {each.fn.__name__: each.fn for each in page.fns.values() if each.fn}
    moved = functions["move_threshold"](outcome, 0.7, 0.5)
    assert next(value for value in moved.values() if isinstance(value, Outcome)).threshold == 0.7
    assert list(functions["move_opacity"](outcome, 0.2).values()) == [[]]
    with pytest.raises(pytest.fail.Exception, match="scored again"):
        functions["score"](["a.png"], "plate", 0.5, None)
