"""Files of weights: what is read, and what is said of a file that cannot be used."""

import math
import pickle
import re
import traceback
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning import LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor, nn

from dual_image_clip.weights import load_backbone
from tests.helpers import TINY, assert_same

pytestmark = pytest.mark.open_clip
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

# What is read


def renamed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": weight for name, weight in state.items()}


WRITERS = {
    "clip.safetensors": save_file,
    "clip.pt": torch.save,
    "clip.pth": torch.save,
    "clip.bin": torch.save,
    "no_suffix": torch.save,
    "nested.pt": lambda state, path: torch.save({"epoch": 3, "name": "run", "state_dict": state}, path),
    "distributed.pt": lambda state, path: torch.save({"state_dict": renamed("module.", state)}, path),
    "distributed.safetensors": lambda state, path: save_file(renamed("module.", state), path),
}


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", WRITERS)
def test_local_files_give_the_weights_they_hold(tiny_clip, tmp_path, name, kind):
    path = tmp_path / name
    WRITERS[name](tiny_clip.state_dict(), path)
    assert_same(load_backbone(TINY, kind(path)).clip.state_dict(), tiny_clip.state_dict(), 0)


def test_weights_of_half_precision_become_float32(tiny_clip, tmp_path):
    half = {name: weight.half() for name, weight in tiny_clip.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    loaded = load_backbone(TINY, tmp_path / "half.safetensors").clip
    assert_same(loaded.state_dict(), {name: weight.float() for name, weight in half.items()}, 0)
    assert loaded.visual.proj.dtype == torch.float32


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "clip.", "model.clip._orig_mod."]
)
def test_what_training_puts_before_the_names_is_taken_off(tiny_clip, tmp_path, prefix):
    save_file(renamed(prefix, tiny_clip.state_dict()), tmp_path / "clip.safetensors")
    assert_same(load_backbone(TINY, tmp_path / "clip.safetensors").clip.state_dict(), tiny_clip.state_dict(), 0)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", HUB_FILES)
def test_a_folder_of_the_hub_gives_its_weights(tiny_clip, tmp_path, name, kind):
    WRITERS["clip.safetensors" if name.endswith("safetensors") else "clip.bin"](tiny_clip.state_dict(), tmp_path / name)
    torch.save({}, tmp_path / "optimizer.bin")
    assert_same(load_backbone(TINY, kind(tmp_path)).clip.state_dict(), tiny_clip.state_dict(), 0)


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


def assert_refused(path: Path) -> str:
    """One short line that names the file, and none of torch's words about unpickling."""
    with (
        warnings.catch_warnings(record=True, action="always") as warned,
        pytest.raises(ValueError, match=re.escape(str(path))) as caught,
    ):
        load_backbone(TINY, path)
    # Files that earlier tests have left open are closed at any time.
    assert [each for each in warned if not issubclass(each.category, ResourceWarning)] == []
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message.replace(str(path), "clip.safetensors")) <= 250
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))
    return message


def wider(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.proj": torch.zeros(48, 25)}


def without_projection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in state.items() if name != "visual.proj"}


def with_one_more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.projection_of_another": torch.zeros(3)}


def with_wide_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.positional_embedding": torch.zeros(10, 99)}


def with_odd_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.positional_embedding": torch.zeros(12, 48)}


def with_one_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "visual.positional_embedding": torch.tensor(0.0)}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (wider, "visual.proj"),
        (without_projection, "visual.proj"),
        (with_one_more, "projection_of_another"),
        (with_wide_positions, "positional_embedding"),
        (with_odd_positions, "visual.positional_embedding"),
        (with_one_position, "visual.positional_embedding"),
        (lambda _: {"fc.weight": torch.zeros(3)}, "positional_embedding"),
    ],
    ids=[
        "another width",
        "a weight less",
        "a weight more",
        "other positions",
        "no square",
        "a number",
        "nothing alike",
    ],
)
def test_weights_of_another_architecture_name_the_file(tiny_clip, tmp_path, change, culprit):
    save_file(change(tiny_clip.state_dict()), tmp_path / "other.safetensors")
    message = assert_refused(tmp_path / "other.safetensors")
    assert "another architecture" in message
    assert culprit in message


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


def test_two_models_in_one_file_are_not_mixed(tiny_clip, tmp_path):
    state = tiny_clip.state_dict()
    average = {name: weight + 1 for name, weight in state.items()}
    save_file(renamed("model.", state) | renamed("module.", average), tmp_path / "clip.safetensors")
    assert "another architecture" in assert_refused(tmp_path / "clip.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "model.clip."])
def test_the_format_of_transformers_is_named(tmp_path, prefix):
    names = ("logit_scale", "text_model.final_layer_norm.bias", "vision_model.embeddings.class_embedding")
    save_file({f"{prefix}{name}": torch.zeros(3) for name in names}, tmp_path / "model.safetensors")
    message = assert_refused(tmp_path / "model.safetensors")
    for part in ("format of transformers", *HUB_FILES):
        assert part in message


@pytest.mark.parametrize("prefix", ["", "visual.", "module.visual."])
def test_an_image_tower_alone_is_named(tiny_clip, tmp_path, prefix):
    torch.save(renamed(prefix, tiny_clip.visual.state_dict()), tmp_path / "visual.pt")
    message = assert_refused(tmp_path / "visual.pt")
    for part in ("an image tower alone", "the whole CLIP model"):
        assert part in message


def test_an_image_tower_of_timms_is_named(tmp_path):
    save_file({"cls_token": torch.zeros(1, 1, 8), "norm.bias": torch.zeros(8)}, tmp_path / "vit.safetensors")
    assert "an image tower alone" in assert_refused(tmp_path / "vit.safetensors")


def test_a_lightning_checkpoint_of_another_model_is_named(tmp_path):
    model = LightningModule()
    model.head = nn.Linear(2, 2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert "Lightning checkpoint of another model" in assert_refused(tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.pt", "no_suffix"])
@pytest.mark.parametrize(
    ("content", "what", "to_do"),
    [
        (b"", "is empty", "download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 833\n", "Git LFS pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><title>401</title></html>", "web page", "the page links to"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page", "the page links to"),
        (b'{"error": "Repository not found"}', "is no checkpoint", "download it again"),
    ],
    ids=["empty", "Git LFS", "HTML", "XML", "JSON"],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, content, what, to_do):
    (tmp_path / name).write_bytes(content)
    message = assert_refused(tmp_path / name)
    assert what in message
    assert to_do in message


def test_torch_script_is_refused(tiny_clip, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    message = assert_refused(tmp_path / "ViT-B-32.pt")
    for part in ("holds code", HUB_FILES[0]):
        assert part in message


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.pt"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"nonsense" * 50, lambda data: data[: len(data) // 2], lambda data: data[:10]],
    ids=["nonsense", "half of it", "its beginning"],
)
def test_corrupt_files_are_named(tiny_clip, tmp_path, name, damage):
    path = tmp_path / name
    WRITERS[name](tiny_clip.state_dict(), path)
    path.write_bytes(damage(path.read_bytes()))
    assert "broke off or is damaged" in assert_refused(path)


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
    message = assert_refused(path)
    assert not marker.exists()
    if not name.endswith(".safetensors"):
        assert "could run any program" in message


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
