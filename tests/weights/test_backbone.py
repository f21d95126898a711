import errno
import logging
import math
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import Tensor, nn

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


def assert_same_weights(actual: nn.Module, expected: nn.Module | dict[str, Tensor]) -> None:
    state = expected if isinstance(expected, dict) else expected.state_dict()
    assert actual.state_dict().keys() == state.keys()
    for name, weight in actual.state_dict().items():
        assert torch.equal(weight, state[name]), name


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
    assert_same_weights(loaded.clip, reference.clip)
    assert loaded.image_size == (240, 240)
    tokens = loaded.tokenizer(["a photo of a metal nut"])
    with torch.no_grad():
        assert loaded.clip.encode_text(tokens).isfinite().all()
        assert loaded.clip.encode_image(torch.zeros(1, 3, 240, 240)).isfinite().all()


def test_embedded_architecture_takes_random_and_local_weights(demo_warnings, tmp_path):
    random = load_backbone(EMBEDDED, None).clip
    save_file(random.state_dict(), tmp_path / "mine.safetensors")
    assert_same_weights(load_backbone(EMBEDDED, tmp_path / "mine.safetensors").clip, random)
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
    assert_same_weights(third, first)
    assert [record.getMessage() for record in caplog.records] == []


def test_warnings_of_others_come_through_afterwards(caplog):
    load_backbone(TINY, None)
    logging.getLogger().warning("No pretrained weights loaded: said by somebody else")
    assert "said by somebody else" in caplog.text


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


# Local files

WRITERS = {
    "clip.safetensors": save_file,
    "clip.pt": torch.save,
    "clip.pth": torch.save,
    "clip.bin": torch.save,
    "no_suffix": torch.save,
    "nested.pt": lambda state, path: torch.save({"epoch": 3, "name": "run", "state_dict": state}, path),
    "distributed.pt": lambda state, path: torch.save(
        {"state_dict": {f"module.{name}": weight for name, weight in state.items()}}, path
    ),
    "distributed.safetensors": lambda state, path: save_file(
        {f"module.{name}": weight for name, weight in state.items()}, path
    ),
}


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", WRITERS)
def test_local_files_give_the_weights_they_hold(tiny_clip, tmp_path, name, kind):
    path = tmp_path / name
    WRITERS[name](tiny_clip.state_dict(), path)
    assert_same_weights(load_backbone(TINY, kind(path)).clip, tiny_clip)


def test_weights_of_half_precision_become_float32(tiny_clip, tmp_path):
    half = {name: weight.half() for name, weight in tiny_clip.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = load_backbone(TINY, tmp_path / "half.safetensors").clip
    assert_same_weights(loaded, {name: weight.float() for name, weight in half.items()})
    assert loaded.visual.proj.dtype == torch.float32


@pytest.mark.parametrize("size", [96, 32])
def test_weights_of_another_image_size_are_interpolated(tmp_path, size):
    torch.manual_seed(2)
    state = open_clip.create_model(TINY, force_image_size=size).state_dict()
    save_file(state, tmp_path / "clip.safetensors")
    loaded = load_backbone(TINY, tmp_path / "clip.safetensors")

    of_class, of_patches = state["visual.positional_embedding"].split([1, (size // 16) ** 2])
    grid = of_patches.T.reshape(1, -1, size // 16, size // 16)
    grid = F.interpolate(grid, (4, 4), mode="bicubic", antialias=True, align_corners=False)
    expected = torch.cat([of_class, grid.reshape(-1, 16).T])
    assert loaded.image_size == (64, 64)
    assert_same(loaded.clip.visual.positional_embedding, expected, 1e-6)
    del state["visual.positional_embedding"]
    others = {name: weight for name, weight in loaded.clip.state_dict().items() if name in state}
    assert others.keys() == state.keys()
    assert all(torch.equal(others[name], weight) for name, weight in state.items())


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
    ("name", "tag", "known"),
    [
        (REAL, "laion2b", ["known tags are", "laion400m_e31", "laion400m_e32"]),
        (REAL, "", ["known tags are", "laion400m_e32"]),
        (TINY, "openai", ["no tags are known"]),
    ],
)
def test_unknown_tag_gets_a_list(name, tag, known):
    with pytest.raises(ValueError, match="neither a file nor a tag") as caught:
        load_backbone(name, tag)
    for part in [f"pretrained={tag!r}", name, EMBEDDED, *known]:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "folder/weights.bin"])
@pytest.mark.parametrize("kind", [str, Path])
def test_missing_file_is_named(tmp_path, name, kind):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError) as caught:
        load_backbone(TINY, kind(path))
    assert str(path) in str(caught.value)


def test_path_is_a_file_whatever_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights_of_mine"):
        load_backbone(TINY, tmp_path / "weights_of_mine")


def assert_refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"checkpoint|architecture") as caught:
        load_backbone(TINY, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def wider(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.proj": torch.zeros(48, 25)}


def without_projection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if name != "visual.proj"}


def with_one_more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.projection_of_another": torch.zeros(3)}


def with_wide_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.positional_embedding": torch.zeros(10, 99)}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (wider, "visual.proj"),
        (without_projection, "visual.proj"),
        (with_one_more, "projection_of_another"),
        (with_wide_positions, "positional_embedding"),
        (lambda _: {"fc.weight": torch.zeros(3)}, "fc.weight|conv1|proj"),
    ],
    ids=["another width", "a weight less", "a weight more", "other positions", "nothing alike"],
)
def test_weights_of_another_architecture_name_the_file(tiny_clip, tmp_path, change, culprit):
    save_file(change(tiny_clip.state_dict()), tmp_path / "other.safetensors")
    message = assert_refused(tmp_path / "other.safetensors")
    assert "another architecture" in message
    assert any(name in message for name in culprit.split("|"))
    assert len(message) < 1000  # not one line for each of hundreds of weights


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {"state_dict": [torch.zeros(3)]},
        {"epoch": 3, "loss": 0.5},
        {"model": {"visual.proj": torch.zeros(3)}},
        {0: torch.zeros(3), 1: torch.zeros(3)},
    ],
    ids=["list", "tensor", "list inside", "numbers", "other nesting", "numbered tensors"],
)
def test_torch_files_that_are_no_checkpoints_are_named(tmp_path, content):
    torch.save(content, tmp_path / "clip.pt")
    assert_refused(tmp_path / "clip.pt")


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.pt"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: b"nonsense" * 50, lambda data: data[: len(data) // 2], lambda data: data[:10]],
    ids=["empty", "nonsense", "half of it", "its beginning"],
)
def test_corrupt_files_are_named(tiny_clip, tmp_path, name, damage):
    path = tmp_path / name
    WRITERS[name](tiny_clip.state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(path)


class Malicious:
    """Opens a file for writing as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("name", ["clip.pt", "clip.bin", "clip.ckpt", "no_suffix", "clip.safetensors"])
@pytest.mark.parametrize("write", ["torch", "torch with weights", "plain pickle"])
def test_pickled_objects_are_refused_and_not_run(tiny_clip, tmp_path, name, write):
    path, marker = tmp_path / name, tmp_path / "marker"
    payload = Malicious(marker)
    pickle.loads(pickle.dumps(payload)).close()  # noqa: S301
    assert marker.exists()  # the payload does harm where it is run
    marker.unlink()

    if write == "plain pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    elif write == "torch":
        torch.save(payload, path)
    else:
        torch.save({"state_dict": tiny_clip.state_dict(), "optimizer": payload}, path)
    assert_refused(path)
    assert not marker.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["visual.proj", "token_embedding.weight", "transformer.resblocks.1.attn.in_proj_bias"])
def test_weights_that_are_not_finite_are_named(tiny_clip, tmp_path, name, value):
    path = tmp_path / "clip.safetensors"
    with torch.no_grad():
        tiny_clip.get_parameter(name).view(-1)[-1] = value
    save_file(tiny_clip.state_dict(), path)
    with pytest.raises(ValueError, match="NaN or infinite") as caught:
        load_backbone(TINY, path)
    for part in (name, TINY, str(path)):
        assert part in str(caught.value)


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
