"""Mistakes on the command line are told in one line, before the model is loaded."""

import importlib.util
import socket

import pytest

from dual_image_clip import cli, commands
from tests.helpers import tiny_model


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(commands.ui, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))


def error_of(capsys, *arguments):
    code = cli.main(["ui", *arguments])
    written = capsys.readouterr().err
    assert code == cli.WRONG_ARGUMENTS
    assert written.count("\n") == 1
    return written


def test_port_in_use(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        written = error_of(capsys, "--port", port)
    assert port in written
    assert "in use" in written


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_port_out_of_range(capsys, port):
    assert f"--port {port} is not in 1..65535" in error_of(capsys, "--port", port)


def test_host_of_another_machine(capsys):
    assert "--host 192.0.2.1" in error_of(capsys, "--host", "192.0.2.1")


def test_gradio_missing(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert "pip install 'dual-image-clip[ui]'" in error_of(capsys)


def test_loopback_is_the_default():
    assert cli.parser().parse_args(["ui"]).host == "127.0.0.1"


def test_golden_samples_that_cannot_be_used(capsys, monkeypatch, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    model = tiny_model(k_shot=1, few_shot_source=tmp_path)
    monkeypatch.setattr(commands.ui, "load_model", lambda *_, **__: model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    assert "broken.png cannot be read" in error_of(capsys, "--port", port, "--golden", str(tmp_path))
