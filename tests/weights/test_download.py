"""Downloads of pretrained weights, from a file that stands in for the network."""

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import pretrained as registry

from dual_image_clip.weights import WeightsUnavailableError, load_backbone
from tests.helpers import TINY

pytestmark = pytest.mark.open_clip


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of the tiny ViT at an address, for the tags ``alone`` and ``second``; the latter's hub entry is wrong."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    weights = open_clip.create_model(TINY).state_dict()
    torch.save({"epoch": 32, "state_dict": weights}, tmp_path / "tiny-second.pt")
    entry = {"url": (tmp_path / "tiny-second.pt").as_uri()}
    hub = {"hf_hub": "somebody/tiny.first/"}
    tags = {"alone": entry, "first": entry | hub, "second": entry | hub}
    monkeypatch.setitem(registry._PRETRAINED, TINY, tags)
    return weights


def test_a_tag_whose_hub_entry_is_another_tags_is_downloaded_from_its_own_address(published):
    loaded = load_backbone(TINY, "second").clip.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in published.items())


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda _: b"<html>"], ids=["half of it", "a web page"])
@pytest.mark.parametrize("tag", ["alone", "second"])
def test_a_download_that_went_wrong_is_named_until_it_is_deleted(published, tmp_path, tag, damage):
    cached = tmp_path / "home/.cache/clip/tiny-second.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(damage((tmp_path / cached.name).read_bytes()))
    for _ in range(2):
        with pytest.raises((ValueError, WeightsUnavailableError)) as caught:
            load_backbone(TINY, tag)
        message = str(caught.value)
        assert str(cached) in message
        assert "delete it" in message
        assert "another architecture" not in message
        assert "weights_only" not in message

    cached.unlink()
    loaded = load_backbone(TINY, tag).clip.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in published.items())


@pytest.mark.usefixtures("published")
def test_a_download_that_failed_does_not_ask_to_delete_a_whole_file(monkeypatch):
    def fail(*_arguments, **_options) -> str:
        raise OSError("no network")

    load_backbone(TINY, "alone")
    monkeypatch.setattr(registry, "download_pretrained_from_url", fail)
    with pytest.raises(WeightsUnavailableError, match="no network") as caught:
        load_backbone(TINY, "alone")
    assert "delete" not in str(caught.value)


def test_the_default_weights_are_never_those_of_another_tag(monkeypatch):
    asked = []

    def download(address: str, *_arguments, **_options) -> str:
        asked.append(address)
        raise OSError("no network")

    # Both of open_clip's ways to the weights, whichever it takes.
    monkeypatch.setattr("dual_image_clip.weights.backbone.download_pretrained_from_url", download)
    monkeypatch.setattr(registry, "download_pretrained_from_url", download)
    if hasattr(registry, "download_pretrained_from_hf"):
        monkeypatch.setattr(registry, "download_pretrained_from_hf", download)
    with pytest.raises(OSError, match="laion400m_e32"):
        load_backbone("ViT-B-16-plus-240", "laion400m_e32")
    assert len(asked) == 1
    assert "laion400m_e32" in asked[0]
