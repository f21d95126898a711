"""What a user sees of open_clip's own log lines while a model is loaded."""

import logging
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
from safetensors.torch import save_file

from dual_image_clip.weights import EMBEDDED, load_backbone
from dual_image_clip.weights import backbone as backbone_module
from tests.helpers import TINY

pytestmark = pytest.mark.open_clip

FACTORY = str(Path(open_clip.__file__).parent / "factory.py")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Lines on the root logger at INFO, where the command of anomalib has it; its filters are seen to be as before."""
    filters = list(logging.getLogger().filters)
    caplog.set_level(logging.INFO)
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)
    assert logging.getLogger().filters == filters


def say(level: int, text: str, path: str = FACTORY) -> None:
    """Logs as a line in a file does that calls ``logging.info`` and the like."""
    record = logging.LogRecord("root", level, path, 1, text, None, None)
    logging.getLogger().handle(record)


def test_open_clip_talks_where_it_is_not_kept_quiet(said):
    open_clip.create_model(TINY)
    assert any("model config" in line for line in said)


def test_loading_is_silent(said, tmp_path):
    load_backbone(TINY, None)
    save_file(open_clip.create_model(TINY, force_image_size=96).state_dict(), tmp_path / "clip.safetensors")
    said.clear()
    load_backbone(TINY, tmp_path / "clip.safetensors")
    assert said == []


def test_the_embedded_model_says_one_thing(said):
    backbone_module._say_that_embedded_is_a_demo.cache_clear()
    load_backbone(EMBEDDED, "laion400m_e32")
    (line,) = said
    assert "It is not CLIP" in line


def test_after_an_error_all_is_heard_again(said, tmp_path):
    (tmp_path / "clip.pt").touch()
    with pytest.raises(ValueError, match="is empty"):
        load_backbone(TINY, tmp_path / "clip.pt")
    assert said == []
    say(logging.INFO, "Loaded the model config")
    assert said == ["Loaded the model config"]


def test_warnings_and_other_programs_are_heard_meanwhile(said, tiny_clip, monkeypatch):
    def create_model(*_arguments):
        say(logging.INFO, "Parsing model identifier")
        say(logging.WARNING, "No pretrained weights loaded for model")
        say(logging.ERROR, "Failed to download weights for tag")
        say(logging.WARNING, "Something is amiss")
        say(logging.INFO, "No pretrained weights loaded by the user's own program", path=__file__)
        return tiny_clip

    said.clear()
    monkeypatch.setattr(open_clip, "create_model", create_model)
    load_backbone(TINY, None)
    assert said == ["Something is amiss", "No pretrained weights loaded by the user's own program"]
