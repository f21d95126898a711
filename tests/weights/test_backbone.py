import errno
import logging
import math
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import nn

from dual_image_clip.weights import EMBEDDED, WeightsUnavailableError, load_backbone
from dual_image_clip.weights import backbone as backbone_module
from tests.helpers import TINY, assert_same

pytestmark = pytest.mark.open_clip

REAL = "ViT-B-16-plus-240"


@pytest.fixture(autouse=True)
def _warn_anew() -> Iterator[None]:
    backbone_module._say_that_embedded_is_a_demo.cache_clear()
    yield
    backbone_module._say_that_embedded_is_a_demo.cache_clear()


@pytest.fixture
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without network and with empty caches of downloads."""

    def fail(*_arguments, **_options):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between attempts at a download
    monkeypatch.setenv("HOME", str(tmp_path))  # older open_clip downloads to ~/.cache/clip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def demo_warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if EMBEDDED in record.getMessage()]


# The embedded model


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("backbone", "pretrained"),
    [(EMBEDDED, EMBEDDED), (EMBEDDED, "laion400m_e32"), (REAL, EMBEDDED), ("no such model", EMBEDDED)],
    ids=["both", "backbone", "pretrained", "pretrained of a nameless one"],
)
def test_embedded_model_needs_no_network_and_says_what_it_is(demo_warnings, backbone, pretrained):
    loaded = load_backbone(backbone, pretrained)
    reference = load_backbone(EMBEDDED, EMBEDDED)

    (warning,) = demo_warnings()  # once, not twice
    assert "demonstration" in warning
    assert "not CLIP" in warning
    assert_same(loaded.clip.state_dict(), reference.clip.state_dict(), 0)
    assert loaded.image_size == (240, 240)
    tokens = loaded.tokenizer(["a photo of a metal nut"])
    with torch.no_grad():
        assert loaded.clip.encode_text(tokens).isfinite().all()
        assert loaded.clip.encode_image(torch.zeros(1, 3, 240, 240)).isfinite().all()


def test_embedded_architecture_takes_random_and_local_weights(demo_warnings, tmp_path):
    random = load_backbone(EMBEDDED, None).clip
    save_file(random.state_dict(), tmp_path / "mine.safetensors")
    assert_same(load_backbone(EMBEDDED, tmp_path / "mine.safetensors").clip.state_dict(), random.state_dict(), 0)
    assert demo_warnings() == []
    embedded = load_backbone(EMBEDDED, EMBEDDED).clip
    assert not torch.equal(embedded.visual.proj, random.visual.proj)


# What any backbone is


def test_without_weights_they_are_random_and_nobody_is_warned(caplog):
    caplog.set_level(logging.WARNING)
    torch.manual_seed(0)
    first = load_backbone(TINY, None).clip
    second = load_backbone(TINY, None).clip
    torch.manual_seed(0)
    third = load_backbone(TINY, None).clip
    assert not torch.equal(first.visual.proj, second.visual.proj)
    assert_same(third.state_dict(), first.state_dict(), 0)
    assert [record.getMessage() for record in caplog.records] == []


def test_model_is_frozen_in_evaluation_mode_and_described():
    loaded = load_backbone(TINY, None)
    assert isinstance(loaded.clip, open_clip.CLIP)
    assert not any(module.training for module in loaded.clip.modules())
    assert not any(weight.requires_grad for weight in loaded.clip.parameters())
    assert loaded.image_size == (64, 64)
    assert loaded.image_mean == pytest.approx(OPENAI_DATASET_MEAN)
    assert loaded.image_std == pytest.approx(OPENAI_DATASET_STD)
    tokens = loaded.tokenizer(["a nut", "a photo of a metal nut"])
    assert torch.equal(tokens, open_clip.tokenize(["a nut", "a photo of a metal nut"]))


@pytest.mark.parametrize("scale", [100.0, 1 / 0.07, 1.0])
def test_temperature_is_the_inverse_of_the_logit_scale(tiny_clip, tmp_path, scale):
    nn.init.constant_(tiny_clip.logit_scale, math.log(scale))
    save_file(tiny_clip.state_dict(), tmp_path / "clip.safetensors")
    assert load_backbone(TINY, tmp_path / "clip.safetensors").temperature == pytest.approx(1 / scale)


def test_tag_brings_its_own_normalisation(tiny_clip, monkeypatch):
    def downloaded(name: str, pretrained: str) -> nn.Module:
        assert (name, pretrained) == ("ViT-B-16", "laion400m_e32")
        tiny_clip.visual.preprocess_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
        return tiny_clip

    monkeypatch.setattr(open_clip, "create_model", downloaded)
    loaded = load_backbone("ViT-B-16", "laion400m_e32")
    assert loaded.clip is tiny_clip
    assert loaded.image_mean == (0.1, 0.2, 0.3)
    assert loaded.image_std == (0.4, 0.5, 0.6)


# What is refused


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ViT-B16", "did you mean .*'ViT-B-16'"),
        ("vit-b-16-plus-240", "did you mean .*'ViT-B-16-plus-240'"),
        ("dual-image-clip", "did you mean .*'dual-image-clip-demo'"),
        ("???", r"open_clip\.list_models\(\)"),
    ],
)
def test_unknown_backbone_gets_a_suggestion(name, hint):
    with pytest.raises(ValueError, match=hint) as caught:
        load_backbone(name, None)
    assert f"backbone={name!r}" in str(caught.value)


def test_backbone_without_a_plain_image_tower_is_refused():
    with pytest.raises(TypeError, match="ModifiedResNet"):
        load_backbone("RN50", None)


@pytest.mark.parametrize(
    ("name", "tag", "hints"),
    [
        (REAL, "laion400m-e33", ["did you mean", "'laion400m_e31'", "'laion400m_e32'"]),
        (REAL, "dual_image_clip_demo", [f"did you mean '{EMBEDDED}'"]),
        (REAL, "???", ["known tags are", "laion400m_e31", "laion400m_e32"]),
        (REAL, "", ["known tags are", "laion400m_e32"]),
        ("ViT-B-32", "???", ["known tags are", "openai", "…"]),
        (TINY, "openai", ["no tags are known"]),
        (EMBEDDED, "laion400m_e31", ["no tags are known"]),
        (EMBEDDED, "openai", ["no tags are known"]),
        (EMBEDDED, "dual-image-clip", [f"did you mean '{EMBEDDED}'"]),
        (EMBEDDED, "weigths.safetensor", ["did you mean 'weights.safetensors'"]),
        (TINY, "weigths.safetensor", ["did you mean 'weights.safetensors'"]),
    ],
)
def test_unknown_tag_gets_a_suggestion_or_a_list(name, tag, hints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("weights.safetensors", "openai.txt", "notes_on_laion400m_e31.md"):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match="neither a file nor a tag") as caught:
        load_backbone(name, tag)
    message = str(caught.value)
    assert len(message) <= 350
    assert ".txt" not in message
    for part in [f"pretrained={tag!r}", name, EMBEDDED, *hints]:
        assert part in message


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "folder/weights.bin"])
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("backbone", [TINY, EMBEDDED])
def test_missing_file_is_named(tmp_path, name, kind, backbone):
    path = tmp_path / name
    (tmp_path / "weights.pth").touch()
    with pytest.raises(FileNotFoundError) as caught:
        load_backbone(backbone, kind(path))
    assert str(path) in str(caught.value)
    assert (f"did you mean '{tmp_path / 'weights.pth'}'" in str(caught.value)) == (path.parent == tmp_path)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("backbone", [TINY, EMBEDDED])
def test_folder_without_weights_is_named_with_what_is_looked_for(tmp_path, backbone, kind):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError) as caught:
        load_backbone(backbone, kind(tmp_path))
    for part in (str(tmp_path), "open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        assert part in str(caught.value)


def test_what_lies_in_the_current_folder_does_not_hide_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (EMBEDDED, "laion400m_e32"):
        (tmp_path / name).mkdir()
        assert load_backbone(EMBEDDED, name).image_size == (240, 240)


def test_path_is_a_file_whatever_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights_of_mine"):
        load_backbone(TINY, tmp_path / "weights_of_mine")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("backbone", "tag"), [(REAL, "laion400m_e32"), ("ViT-B-32", "openai")], ids=["from an address", "from the hub"]
)
def test_download_without_network_says_what_to_do(backbone, tag):
    with pytest.raises(WeightsUnavailableError) as caught:
        load_backbone(backbone, tag)
    message = str(caught.value)
    for part in (repr(tag), backbone, "could not be fetched", "pretrained=/path/to/", EMBEDDED):
        assert part in message
    assert isinstance(caught.value, OSError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    shown = "".join(traceback.format_exception(caught.value))
    assert "urllib" not in shown.replace(message, "")
    assert "During handling" not in shown
