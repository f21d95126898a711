"""The server over HTTP, as several people use it at the same time, with uploads of every kind."""

import errno
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client
from PIL import Image

from dual_image_clip import DualImageCLIP
from dual_image_clip.prediction import Outcome, Prediction, make_sketch
from dual_image_clip.ui.page import build_page
from dual_image_clip.ui.scorer import Scorer
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate
from tests.integration.commands import rows_of
from tests.ui.canned import CannedScorer

PATIENCE = 100
SETTINGS = {"backbone": EMBEDDED, "adaptation_steps": 0}


class Server(NamedTuple):
    address: str
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """A process of its own, started in a folder with somebody's files."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "somebody").mkdir()
    (folder / "somebody" / "predictions.csv").write_text("somebody's own")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    arguments = ["ui", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--port", address.rpartition(":")[2]]
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "dual_image_clip.cli", *arguments],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder / "somebody",
        )
    try:
        end = time.monotonic() + PATIENCE
        while "Open http" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield Server(address, folder, log)
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert "Traceback" not in log.read_text()
    assert [path.name for path in (folder / "somebody").iterdir()] == ["predictions.csv"]
    assert (folder / "somebody" / "predictions.csv").read_text() == "somebody's own"


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plate(seed: int, size: tuple[int, int] = (64, 64), defect: str | None = None) -> Image.Image:
    return Image.fromarray(draw_plate(seed, size, defect)[0])


def turned(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(plate(seed, (60, 90)), "JPEG", exif=exif)


def deep(seed: int) -> bytes:
    grey = np.asarray(plate(seed).convert("L")).astype(np.uint16) * 257
    return encoded(Image.fromarray(grey))


def bomb() -> bytes:
    """A PNG that claims to be large and ends there."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"\x00\x00\x00\x01IDATx" + struct.pack(">I", zlib.crc32(b"IDATx"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + data


Upload = tuple[str, bytes]
MARKUP = "<img src=x onerror=alert(1)>.png"
# Of a name that is refused, what its owner is told.
REASONS = {
    "text.png": "cannot be read as an image (cannot identify image file)",
    "empty.png": "cannot be read as an image (cannot identify image file)",
    "cut.png": "cannot be read as an image (image file is truncated",
    "bomb.png": "more than 178 megapixels",
    "notes.txt": "is of no format that is read",
    "speck.png": "has 8×8 pixels, less than one",
}


def odd(owner: int) -> list[Upload]:
    """Uploads that are refused."""
    return [
        ("text.png", b"no image"),
        ("empty.png", b""),
        ("cut.png", encoded(plate(owner))[:3000]),
        ("bomb.png", bomb()),
        ("notes.txt", b"notes"),
        ("speck.png", encoded(plate(owner, (8, 8)))),
    ]


def uploads_of(owner: int) -> list[Upload]:
    """What one of four people uploads: names that the others use too, for other pictures, and some of the odd ones."""
    seed = 100 * owner
    same = [(f"{index}.png", encoded(plate(seed + index))) for index in range(8)]
    same.append(("spot.png", encoded(plate(seed + 50, defect="spot"))))
    frames = [plate(seed + 60 + index) for index in range(3)]
    special: list[list[Upload]] = [
        [("deep.png", deep(seed + 70)), ("../../x.png", encoded(plate(seed + 71))), *odd(owner)],
        [("turned.jpg", turned(seed + 70)), ("螺-ß 'x'.png", encoded(plate(seed + 71))), *odd(owner)[:3]],
        [("many.tif", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])), (MARKUP, same[0][1])],
        [("0.png", encoded(plate(seed + 80))), same[0], *odd(owner)[3:]],
    ]
    return [*special[owner], *same]


def upload(server: Server, uploads: list[Upload]) -> list[str]:
    """Where the server has put each."""
    files = [("files", upload) for upload in uploads]
    answer = httpx.post(f"{server.address}/gradio_api/upload", files=files, timeout=PATIENCE)
    assert answer.status_code == 200
    return answer.json()


class Page(NamedTuple):
    """What somebody sees, and the list that can be downloaded."""

    message: str
    captions: list[str]
    rows: list[dict[str, str]]


def score(server: Server, paths: list[str], class_name: str) -> Page:
    client = Client(server.address, verbose=False, download_files=str(server.folder / "downloads"))
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
    message, pictures, table, download, *_ = client.predict(files, class_name, 0.5, api_name="/score")
    captions = [each["caption"] for each in pictures["value"]]
    found = rows_of(Path(download["value"]))
    assert [row[1] for row in table["data"]] == [row["path"] for row in found]
    return Page(message, captions, found)


def assert_same(page: Page, expected: Outcome) -> None:
    assert page.captions
    assert [row["path"] for row in page.rows] == [each.path for each in expected.predictions]
    assert [row["label"] for row in page.rows] == [each.label for each in expected.predictions]
    assert [float(row["score"]) for row in page.rows] == pytest.approx(
        [each.score for each in expected.predictions], abs=1e-4
    )
    assert [caption.partition(": 0.")[0] for caption in page.captions] == [row["path"] for row in page.rows]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(DualImageCLIP(**SETTINGS))


def expected_of(scorer: Scorer, paths: list[str], class_name: str) -> Outcome:
    return scorer(paths, class_name, lambda *_: None)


def test_each_of_four_gets_the_results_of_their_own_uploads(server, scorer):
    names = ["plate", "screw", "nut", "carpet"]

    def use(owner: int) -> tuple[list[str], Page]:
        paths = upload(server, uploads_of(owner))
        return paths, score(server, paths, names[owner])

    with ThreadPoolExecutor(4) as people:
        pages = list(people.map(use, range(4)))
    for owner, (paths, page) in enumerate(pages):
        uploads = uploads_of(owner)
        assert len(paths) == len(uploads)
        # Every upload is what was sent, under whatever name.
        assert [Path(path).read_bytes() for path in paths] == [content for _, content in uploads]
        assert all((server.folder) in Path(path).parents for path in paths)
        expected = expected_of(scorer, paths, names[owner])
        assert_same(page, expected)
        refused = [name for name, _ in uploads if name in REASONS]
        # The pages of a file are so many photos.
        frames = 2 * any(name == "many.tif" for name, _ in uploads)
        assert len(page.rows) == len(uploads) - len(refused) + frames
        assert page.message.count("Not scored: ") == len(refused)
        for name in refused:
            assert REASONS[name] in page.message.split(f"Not scored: {name} ")[1].split("</span>")[0]
    shown = [[row["path"] for row in page.rows] for _, page in pages]
    assert "x.png" in shown[0]
    assert "螺-ß 'x'.png" in shown[1]
    assert {"many.tif", "many.tif#2", "many.tif#3"} <= set(shown[2])
    assert sorted(name for name in shown[3] if name.startswith("0.png")) == ["0.png", "0.png (2)", "0.png (3)"]
    assert not any("<img" in page.message for _, page in pages)


def test_a_hundred_at_once(server):
    uploads = [(f"{index:03}.png", encoded(plate(index, (32, 32)))) for index in range(100)]
    paths = upload(server, uploads)
    page = score(server, paths, "plate")
    assert sorted(row["path"] for row in page.rows) == [name for name, _ in uploads]
    assert "Not scored" not in page.message


def test_an_upload_that_is_gone_is_listed_and_the_others_are_scored(server):
    paths = upload(server, [(f"{index}.png", encoded(plate(900 + index))) for index in range(3)])
    Path(paths[1]).unlink()
    # As a browser asks that still shows it; the client of Python looks for files itself.
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
    event = httpx.post(
        f"{server.address}/gradio_api/call/score", json={"data": [files, "plate", 0.5]}, timeout=PATIENCE
    )
    url = f"{server.address}/gradio_api/call/score/{event.json()['event_id']}"
    answer = httpx.get(url, timeout=PATIENCE).text
    assert "2 images scored" in answer
    assert "1.png is no longer there: add it again" in answer


def test_scores_are_shown_where_their_list_cannot_be_written(monkeypatch):
    def fill_the_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dual_image_clip.ui.page.write_csv", fill_the_disk)
    sketch = make_sketch(torch.rand(3, 32, 32), torch.rand(32, 32))
    outcome = Outcome([Prediction("a.png", 0.5, "undecided", 0, sketch)], {"": None}, [], 1)
    page = build_page(CannedScorer(lambda *_: outcome))
    score = next(each.fn for each in page.fns.values() if each.fn and each.fn.__name__ == "score")
    shown = score(["a.png"], "plate", 0.5, None)
    message = next(value for component, value in shown.items() if getattr(component, "elem_id", None) == "message")
    assert message.startswith("<strong>1 image scored")
    assert "There is no CSV: No space left on device." in message
    assert [["1", "a.png", "0.500", "undecided"]] in shown.values()


def test_files_of_the_machine_are_not_served(server):
    for path in (server.folder / "somebody" / "predictions.csv", "predictions.csv", "/etc/hostname", server.log):
        answer = httpx.get(f"{server.address}/gradio_api/file={path}", timeout=PATIENCE)
        assert answer.status_code in {403, 404}
        assert "somebody" not in answer.text.replace(str(path), "")
