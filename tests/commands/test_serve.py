"""Mistakes on the command line are told in one line, before a model is loaded."""

import importlib.util

import pytest

from dual_image_clip import cli
from dual_image_clip.commands import serve

GIVEN = ["serve", "--class-name", "plate"]


@pytest.fixture(autouse=True)
def _no_model(monkeypatch):
    monkeypatch.setattr(serve, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "0"], "--port 0 is not in 1..65535"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),
        (["--max-images", "0"], "--max-images must be above 0, got 0"),
        (["--max-megapixels", "-1"], "--max-megapixels must be above 0, got -1.0"),
        (["--class-name", "123"], "--class-name"),
    ],
)
def test_mistakes_are_told(capsys, arguments, reason):
    assert cli.main([*GIVEN, *arguments]) == cli.WRONG_ARGUMENTS
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_what_is_missing_is_told(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    assert cli.main(GIVEN) == cli.WRONG_ARGUMENTS
    assert "the service needs fastapi: pip install 'dual-image-clip[serve]'" in capsys.readouterr().err


def test_it_listens_to_this_machine_alone():
    assert cli.parser().parse_args(GIVEN).host == "127.0.0.1"
