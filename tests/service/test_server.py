"""A server process, used by many at the same time."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from PIL import Image

from dual_image_clip import DualImageCLIP
from tests.helpers import tiny_model
from tests.service.clients import encoded, expected_of, files_of, picture
from tests.service.small_server import SETTINGS, SLOW

PATIENCE = 200
REQUESTS, CLIENTS = 500, 8
# Every so many requests are broken, in turn in each of these ways.
EVERY = 4


class Server(NamedTuple):
    address: str
    process: subprocess.Popen
    log: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["serve", "--class-name", "plate", "--port", str(port), "--max-megapixels", "0.05"]
    arguments += ["--max-image-mb", "0.1", "--max-request-mb", "5", "--max-waiting", "16"]
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.small_server", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
        )
    try:
        end = time.monotonic() + PATIENCE
        while "Serving at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield Server(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def model() -> DualImageCLIP:
    model = tiny_model(**SETTINGS)
    model.set_class_name("plate")
    return model.eval()


def cut_off(address: str) -> int:
    """A client that goes away in the middle of its request."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--x\r\n".encode())
    return 0


def broken(kind: int, client: httpx.Client, address: str) -> tuple[int, int]:
    """Sends a broken request, and tells the status that was answered and the one that is right."""
    if kind == 0:
        return cut_off(address), 0
    files, status = [
        ([("images", ("a.png", b"no image"))], 422),
        ([("images", ("a.png", b""))], 422),
        ([("photos", ("a.png", encoded(picture(1))))], 422),
        ([("images", ("a.png", os.urandom(200_000)))], 413),
        ([("images", ("a.png", encoded(Image.new("L", (300, 300)))))], 413),
        ([("images", ("a.png", encoded(picture(1))))] * 33, 413),
        (files_of(picture(1)), 405),
    ][kind - 1]
    path = "/health" if status == 405 else "/predict"
    return client.post(f"{address}{path}", files=files).status_code, status


def test_five_hundred_requests_of_eight_clients_get_each_its_own_answer(server, model):
    """Of one to three images each, all different, so that no answer is right for another's request."""
    counts = [1 + index % 3 // 2 for index in range(REQUESTS)]
    pictures = [[picture(3 * index + place) for place in range(count)] for index, count in enumerate(counts)]
    kinds = iter(range(REQUESTS))
    plan = [next(kinds) % 8 if index % EVERY == 0 else None for index in range(REQUESTS)]

    def use(owner: int) -> dict[int, object]:
        answers: dict[int, object] = {}
        with httpx.Client(timeout=PATIENCE) as client:
            for index in range(owner, REQUESTS, CLIENTS):
                if plan[index] is not None:
                    answers[index] = broken(plan[index], client, server.address)
                else:
                    answers[index] = client.post(f"{server.address}/predict", files=files_of(*pictures[index]))
        return answers

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = {index: answer for each in clients.map(use, range(CLIENTS)) for index, answer in each.items()}
    assert sorted(answers) == list(range(REQUESTS))
    seen = set()
    for index, answer in answers.items():
        if plan[index] is not None:
            assert answer[0] == answer[1], f"kind {plan[index]}"
            continue
        assert answer.status_code == 200, answer.text
        expected = expected_of(model, pictures[index])
        found = answer.json()["images"]
        assert [each["score"] for each in found] == pytest.approx([each.score for each in expected], abs=2e-6)
        assert [each["label"] == "anomalous" for each in found] == [each.label for each in expected]
        assert [len(each["defects"]) for each in found] == [len(each.defects) for each in expected]
        seen.add(found[0]["score"])
    # Scores tell requests apart.
    assert len(seen) > 0.9 * (REQUESTS - REQUESTS // EVERY)
    health = httpx.get(f"{server.address}/health", timeout=PATIENCE).json()
    assert (health["status"], health["waiting"], health["golden"]) == ("ok", 0, 0)
    assert "Traceback" not in server.log.read_text()


def test_a_request_that_is_refused_while_it_is_being_sent_hears_why(server):
    """Without reading on, its sender would find the connection broken."""
    files = [("images", ("a.png", os.urandom(19_000_000)))]
    answer = httpx.post(f"{server.address}/predict", files=files, timeout=PATIENCE)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the request has more than 5 MB"


def test_a_port_in_use_is_told_in_one_line(server, capsys):
    from dual_image_clip import cli

    port = server.address.rpartition(":")[2]
    assert cli.main(["serve", "--class-name", "plate", "--port", port]) == cli.WRONG_ARGUMENTS
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"cannot listen on --host 127.0.0.1 --port {port}" in said


def test_who_was_let_in_is_answered_before_it_ends(server):
    files = [("images", ("a.png", encoded(picture(1, (48, SLOW + 1)))))] * 10
    with ThreadPoolExecutor(2) as clients:
        address = f"{server.address}/predict"
        waiting = [clients.submit(httpx.post, address, files=files, timeout=PATIENCE) for _ in range(2)]
        while httpx.get(f"{server.address}/health", timeout=PATIENCE).json()["waiting"] < 2:
            assert not any(each.done() for each in waiting)
        server.process.send_signal(signal.SIGTERM)
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert server.process.wait(PATIENCE) == 0
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "Serving at" in log.splitlines()[-1]
