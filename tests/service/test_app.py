"""The service in this process, with a small model: what is answered, and what is refused."""

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from threading import Event

import anyio
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from dual_image_clip import threshold_file
from dual_image_clip.one_image import encode_one, own_post_processor, score_one
from dual_image_clip.photos import image_to_tensor
from dual_image_clip.service import Limits
from dual_image_clip.service.app import create_app
from dual_image_clip.service.scorer import ServiceScorer
from tests.helpers import tiny_model
from tests.service.clients import encoded, expected_of, files_of, map_of, picture

LIMITS = Limits(image_bytes=20_000, request_bytes=50_000, pixels=10_000, images=3, waiting=2, patience=0.3)


def make_model(**arguments):
    model = tiny_model(**{"class_name": "plate", "adaptation_steps": 0, "threshold": 0.3, **arguments})
    model.set_class_name("plate")
    return model.eval()


class Service:
    """A client that speaks to the service without a network."""

    def __init__(self, limits: Limits = LIMITS, min_area: int = 0, **arguments) -> None:
        self.scorer = ServiceScorer(make_model(**arguments), limits.pixels, min_area)
        self.app = create_app(self.scorer, limits)

    def __call__(self, method: str, path: str, **request) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service")


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.mark.parametrize("settings", [{}, {"adaptation_steps": 2}, {"num_references": 2}, {"threshold": None}], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_images_of_a_request_are_each_others_references_and_nothing_is_kept(settings, count):
    service = Service(min_area=40, **settings)
    pictures = [picture(seed) for seed in range(count)]
    first = service("POST", "/predict", files=files_of(*pictures))
    service("POST", "/predict", files=files_of(picture(7), picture(8)))
    again = service("POST", "/predict", files=files_of(*pictures))
    assert first.status_code == 200
    assert first.json() == again.json()
    expected = expected_of(make_model(**settings), pictures, 40)
    answers = first.json()["images"]
    assert [each["name"] for each in answers] == [f"{index}.png" for index in range(count)]
    assert [each["score"] for each in answers] == pytest.approx([each.score for each in expected], abs=2e-6)
    assert [each["num_references"] for each in answers] == [each.num_references for each in expected]
    for answer, score in zip(answers, expected, strict=True):
        assert (answer["width"], answer["height"], answer["map"]) == (64, 48, None)
        if settings.get("threshold", 0.3) is None:
            assert (answer["label"], answer["threshold"], answer["defects"]) == (None, None, [])
        else:
            assert answer["label"] == ("anomalous" if answer["score"] > 0.3 else "normal")
            assert [each["left"] for each in answer["defects"]] == [each.box[0] for each in score.defects]


def test_a_map_is_a_picture_of_the_photos_size(service):
    photo = picture(3)
    answer = service("POST", "/predict?map=true", files=files_of(photo)).json()["images"][0]
    (expected,) = expected_of(make_model(), [photo])
    resized = torch.nn.functional.interpolate(expected.anomaly_map[None, None], (48, 64), mode="bilinear")[0, 0]
    assert map_of(base64.b64decode(answer["map"])) == pytest.approx(resized.numpy(), abs=1e-5)


def test_images_that_are_accepted_are_compared_with_from_then_on():
    service, model = Service(), make_model()
    before = service("POST", "/predict", files=files_of(picture(3))).json()["images"][0]
    accepted = service("POST", "/golden", files=files_of(picture(1), picture(2), picture(1)))
    assert accepted.json() == {
        "images": [{"name": "0.png", "new": True}, {"name": "1.png", "new": True}, {"name": "2.png", "new": False}],
        "golden": 2,
    }
    after = service("POST", "/predict", files=files_of(picture(3))).json()["images"][0]
    query, *golden = (encode_one(model, image_to_tensor(picture(seed))) for seed in (3, 1, 2))
    expected = score_one(model, own_post_processor(model), query, [each.patches for each in golden], (48, 64))
    assert after["score"] == pytest.approx(expected.score, abs=2e-6)
    assert after["score"] != pytest.approx(before["score"], abs=1e-3)
    assert (before["num_references"], after["num_references"]) == (0, 2)
    refused = service("POST", "/golden", files=[*files_of(picture(4)), ("images", ("x.png", b"no image"))])
    assert refused.status_code == 422
    assert service("GET", "/health").json()["golden"] == 2


def test_calibrated_thresholds_are_not_applied_to_images_with_fewer_references():
    service, model = Service(), make_model(num_references=2)
    model.limits = threshold_file.Limits(
        0.3, None, Path("threshold.json"), {"num_references": 2, "class_name": "plate"}
    )
    service.app = create_app(ServiceScorer(model, LIMITS.pixels), LIMITS)
    refused = service("POST", "/predict", files=files_of(picture(1), picture(2)))
    assert refused.status_code == 422
    assert "hold for images that are compared with 2 others: send at least 3" in refused.json()["detail"]
    assert service("POST", "/predict", files=files_of(picture(1), picture(2), picture(3))).status_code == 200


def test_health_tells_what_is_scored_with(service):
    assert service("GET", "/health").json() == {
        **{
            "status": "ok",
            "version": version("dual-image-clip"),
            "class_name": "plate",
            "backbone": "tiny-vit",
            "threshold": 0.3,
        },
        **{"golden": 0, "waiting": 0},
    }


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("/etc/passwd", "passwd"),
        ("..\\..\\x.png", "x.png"),
        ("<b>ß.png", "<b>ß.png"),
        ("a.png#2", "a.png#2"),
        ("..", ".."),
        ("sub/", "sub"),
        ("n" * 300, "n" * 255),
    ],
)
def test_a_name_is_a_label_without_folders(service, sent, shown):
    answer = service("POST", "/predict", files=[("images", (sent, encoded(picture(1))))])
    assert answer.json()["images"][0]["name"] == shown


def test_no_file_of_the_machine_is_read_whatever_an_image_is_called(tmp_path, monkeypatch):
    """A folder of masks is searched for a name, and a photo on its side has its mask turned with it."""
    photo = picture(1, (48, 64))
    save = Image.fromarray(np.full((48, 64), 255, np.uint8)).save
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks" / "a.png")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_text("somebody's own, and no image")
    service = Service(regions=tmp_path / "masks")
    assert service("POST", "/predict", files=[("images", ("a.png", encoded(photo)))]).status_code == 200
    refused = service("POST", "/predict", files=[("images", ("b.png", encoded(photo)))])
    assert refused.status_code == 422
    assert "b.png (image 1 of 1) has no mask in" in refused.json()["detail"]


def noise(width: int, height: int) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)))


def bomb() -> bytes:
    """A PNG that claims to be large and ends there."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"\x00\x00\x00\x01IDATx" + struct.pack(">I", zlib.crc32(b"IDATx"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + data


PNG = encoded(picture(1))


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ([("images", ("a.png", b"no image"))], 422, "a.png (image 1 of 1) cannot be read as an image"),
        ([("images", ("a.png", b""))], 422, "a.png (image 1 of 1) cannot be read as an image"),
        ([("images", ("a.png", PNG)), ("images", ("b.png", PNG[:900]))], 422, "b.png (image 2 of 2) cannot be read"),
        ([("images", ("a.nef", PNG))], 422, "a.nef (image 1 of 1) is a camera's raw file"),
        ([("images", ("a.png", encoded(picture(1, (8, 8)))))], 422, "has 8×8 pixels, less than one 16×16 patch"),
        ([("images", ("a.png", encoded(Image.new("L", (300, 200)))))], 413, "200×300 pixels, more than 0.01 megapix"),
        ([("images", ("a.png", bomb()))], 413, "more than 0.01 megapixels"),
        ([("images", ("a.png", noise(100, 90)))], 413, "a.png has more than 0.02 MB"),
        ([("images", (f"{index}.png", noise(70, 70))) for index in range(4)], 413, "request has more than 0.05 MB"),
        ([("images", (f"{index}.png", PNG)) for index in range(4)], 413, "the request has 4 images, more than 3"),
        ([("photos", ("a.png", PNG))], 422, "has no image files: send them as multipart/form-data"),
        ([("images", (None, "text"))], 422, "has no image files: send them as multipart/form-data"),
    ],
)
def test_what_cannot_be_taken_is_named(service, files, status, reason):
    for path in ("/predict", "/golden"):
        answer = service("POST", path, files=files)
        assert answer.status_code == status
        assert list(answer.json()) == ["detail"]
        assert reason in answer.json()["detail"]
    assert service("GET", "/health").json()["golden"] == 0


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"{}"}, 422, "has no image files"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": files_of(picture(1)), "params": {"map": "maybe"}}, 422, "map: Input should be a valid boolean"),
        ({"files": files_of(picture(1)), "headers": {"Origin": "http://evil"}}, 403, "pages of other sites"),
    ],
)
def test_a_wrong_request_is_told(service, request_, status, reason):
    answer = service("POST", "/predict", **request_)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


def test_a_page_of_the_service_itself_is_let_in(service):
    answer = service("POST", "/predict", files=files_of(picture(1)), headers={"Origin": "http://service"})
    assert answer.status_code == 200


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


async def endless() -> AsyncIterator[bytes]:
    yield HEAD
    for _ in range(80):
        yield bytes(1000)


def test_a_body_without_a_length_is_counted(service):
    answer = service("POST", "/predict", content=endless(), headers=FORM)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the request has more than 0.05 MB"


def test_a_body_that_does_not_come_is_given_up():
    async def drip() -> int:
        sent: list[dict] = []
        parts = iter([{"type": "http.request", "body": HEAD, "more_body": True}])

        async def receive() -> dict:
            for part in parts:
                return part
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"service")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
        await Service().app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(drip()) == 408


def test_requests_that_wait_are_limited_and_health_answers_meanwhile(monkeypatch):
    service, scoring, go_on = Service(), Event(), Event()
    predict = service.scorer.predict

    def slow(*arguments):
        scoring.set()
        assert go_on.wait(20)
        return predict(*arguments)

    monkeypatch.setattr(service.scorer, "predict", slow)

    async def use() -> None:
        async with service.client() as client, anyio.create_task_group() as clients:
            answers = []

            async def ask() -> None:
                answers.append(await client.post("/predict", files=files_of(picture(1))))

            clients.start_soon(ask)
            await anyio.to_thread.run_sync(scoring.wait)
            clients.start_soon(ask)
            await asyncio.sleep(0.05)
            assert (await client.get("/health")).json()["waiting"] == 2
            refused = await client.post("/predict", files=files_of(picture(1)))
            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "1"
            assert "2 requests are waiting already" in refused.json()["detail"]
            go_on.set()
        assert [answer.status_code for answer in answers] == [200, 200]

    asyncio.run(use())
    assert service("GET", "/health").json()["waiting"] == 0


def test_a_failure_is_told_without_its_innards(monkeypatch):
    service = Service()

    def fail(*_):
        raise RuntimeError("innards")

    monkeypatch.setattr(service.scorer, "predict", fail)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post("/predict", files=files_of(picture(1)))

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the service has failed, and its log tells why"}


def test_the_page_describes_everything_and_loads_nothing(service):
    page = service("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    schema = service("GET", "/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/golden", "/health"}
    for text in (*schema["paths"], *schema["components"]["schemas"]["ImageScore"]["properties"], "413", "429"):
        assert f"<code>{text}</code>" in page.text or f" {text}</code>" in page.text
    assert "http://service/predict" in page.text
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert service("GET", "/").text == page.text
    assert service("GET", "/redoc").status_code == 404
