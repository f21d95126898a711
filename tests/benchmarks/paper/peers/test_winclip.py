import copy
from collections.abc import Iterator
from contextlib import contextmanager

import open_clip
import pytest
import torch
from anomalib.models.image.winclip import torch_model
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from torch import Tensor, nn

from benchmarks.paper.peers.winclip import WinClip, encode, score
from tests.helpers import assert_same, random_images

pytestmark = pytest.mark.open_clip

TINY = "tiny-vit"
IMAGE_SIZE = 64


def some_images(count: int = 3, size: int = IMAGE_SIZE) -> Tensor:
    return random_images(count, 3, size, size)


def tiny_winclip(clip: nn.Module, temperature: float = torch_model.TEMPERATURE, **settings) -> WinClip:
    return WinClip(clip, open_clip.get_tokenizer(TINY), "bolt", temperature, **settings)


def variant(**vision) -> nn.Module:
    config = copy.deepcopy(open_clip.get_model_config(TINY))
    config["vision_cfg"].update(vision)
    torch.manual_seed(1)
    clip = open_clip.CLIP(**config).eval()
    with torch.no_grad():
        for weight in clip.visual.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return clip


class OldAxisOrder(nn.Module):
    """Makes a transformer take (M, N, C), as anomalib expects, but where the tower itself calls it."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.called_by_tower = False

    def forward(self, tokens: Tensor) -> Tensor:
        if self.called_by_tower:
            return self.transformer(tokens)
        return self.transformer(tokens.transpose(0, 1)).transpose(0, 1)


def with_old_axis_order(clip: nn.Module) -> nn.Module:
    clip = copy.deepcopy(clip)
    if not getattr(clip.visual.transformer, "batch_first", False):
        return clip
    wrapper = clip.visual.transformer = OldAxisOrder(clip.visual.transformer)
    clip.visual.register_forward_pre_hook(lambda *_: setattr(wrapper, "called_by_tower", True))
    clip.visual.register_forward_hook(lambda *_: setattr(wrapper, "called_by_tower", False))
    return clip


@contextmanager
def constructor_gives(clip: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(torch_model.open_clip, "create_model_and_transforms", lambda *_, **__: (clip, None, None))
        yield


def anomalibs_own(clip: nn.Module, monkeypatch: pytest.MonkeyPatch, scales: tuple = (2, 3)) -> nn.Module:
    """anomalib's model, every line of it, but for where the weights come from."""
    with constructor_gives(with_old_axis_order(clip), monkeypatch):
        return torch_model.WinClipModel(class_name="bolt", scales=scales)


@pytest.mark.parametrize("scales", [(2, 3), (1, 4), (2,)])
@pytest.mark.parametrize(
    "vision", [{}, {"image_size": 40, "patch_size": 8}, {"width": 32, "layers": 5}], ids=["4×4", "5×5", "narrow"]
)
def test_scores_are_those_of_anomalib(monkeypatch, vision, scales):
    clip = variant(**vision)
    images = some_images(size=vision.get("image_size", IMAGE_SIZE))
    expected = anomalibs_own(clip, monkeypatch, scales)(images)
    model = tiny_winclip(clip, scales=scales)
    scores = score(model, encode(model, images))
    assert_same(scores.images, expected.pred_score)
    assert_same(scores.maps, expected.anomaly_map)
    assert scores.maps.shape == images[:, 0].shape
    assert scores.maps.std() > 1e-3


def test_embeddings_are_those_of_anomalib(tiny_clip, monkeypatch):
    images = some_images()
    theirs, ours = anomalibs_own(tiny_clip, monkeypatch), tiny_winclip(tiny_clip)
    assert_same(ours.text_embeddings, theirs.text_embeddings)
    with torch.no_grad():
        expected_images, expected_windows, expected_patches = theirs.encode_image(images)
        of_images, of_windows, of_patches = ours.encode_image(images)
    assert_same(of_images, expected_images, 1e-4)
    assert_same(of_patches, expected_patches, 1e-4)
    assert [each.shape for each in of_windows] == [(3, 9, 24), (3, 4, 24)]
    for window, expected in zip(of_windows, expected_windows, strict=True):
        assert_same(window, expected, 1e-4)


def test_encoding_and_scoring_apart_are_the_forward_of_the_model(tiny_clip):
    model, images = tiny_winclip(tiny_clip), some_images()
    together, apart = model(images), score(model, encode(model, images))
    torch.testing.assert_close(apart.images, together.pred_score)
    torch.testing.assert_close(apart.maps, together.anomaly_map)


def test_an_image_is_scored_the_same_in_any_batch(tiny_clip):
    model, images = tiny_winclip(tiny_clip), some_images()
    together = score(model, encode(model, images))
    for index in range(3):
        alone = score(model, encode(model, images[index : index + 1]))
        assert_same(alone.images[0], together.images[index])
        assert_same(alone.maps[0], together.maps[index])


def test_a_lower_temperature_spreads_the_scores(tiny_clip):
    images = some_images()
    spreads = []
    for temperature in (1.0, 0.1, 0.03):
        model = tiny_winclip(tiny_clip, temperature)
        spreads.append((score(model, encode(model, images)).images - 0.5).abs().max().item())
    assert spreads[0] < spreads[1] < spreads[2]


def test_features_serve_every_class_name(tiny_clip):
    images = some_images()
    bolt, nut = (WinClip(tiny_clip, open_clip.get_tokenizer(TINY), name, 0.05) for name in ("bolt", "wing nut"))
    features = encode(bolt, images)
    of_nut = score(nut, features)
    torch.testing.assert_close(of_nut.maps, nut(images).anomaly_map)
    assert not torch.allclose(of_nut.images, score(bolt, features).images, atol=1e-4)


def test_the_clip_model_is_left_alone_however_often_it_is_used(tiny_clip):
    model = tiny_winclip(tiny_clip)
    for _ in range(3):
        encode(model, some_images(1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_clip.modules())
    assert not tiny_clip.visual.output_tokens
    assert tiny_clip.encode_image(some_images(1)).shape == (1, 24)


def test_nothing_is_downloaded_and_the_given_tokenizer_is_used(tiny_clip, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("WinCLIP asked for weights of its own")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", refuse)
    monkeypatch.setattr(torch_model, "tokenize", refuse)
    read = []

    def tokenizer(prompts: list[str]) -> Tensor:
        read.append(prompts)
        return open_clip.tokenize(prompts)

    WinClip(tiny_clip, tokenizer, "wing nut", 0.01)
    assert read == list(create_prompt_ensemble("wing nut"))


def test_features_are_float32_without_gradient(tiny_clip):
    with torch.autocast("cpu", torch.bfloat16):
        features = encode(tiny_winclip(tiny_clip), some_images())
    for each in (features.images, *features.windows):
        assert each.dtype == torch.float32
        assert not each.requires_grad


def test_windows_larger_than_the_grid_are_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"windows of 5 patches do not fit the tower's grid of \(4, 4\)"):
        tiny_winclip(tiny_clip, scales=(2, 5))


def test_images_of_another_size_are_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"\(N, 3, 64, 64\)"):
        encode(tiny_winclip(tiny_clip), some_images(1, 80))


def test_other_towers_are_refused():
    with pytest.raises(TypeError, match="unsupported image tower"):
        WinClip(open_clip.create_model("RN50"), open_clip.get_tokenizer("RN50"), "bolt", 0.01)
