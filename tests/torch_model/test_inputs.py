"""Modes, types and images of every kind."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import assert_same
from tests.torch_model.tiny import PATCH, PRIMES, TILE, VISUAL_ONLY, build, names, normalized, some_images


def test_class_name_is_asked_for(tiny_clip):
    model = build(tiny_clip)
    model.text_embeddings.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="set_class_name"):
        model(some_images(2))


def test_training_mode_changes_nothing(tiny_clip):
    expected = build(tiny_clip)(some_images(3))
    tiny_clip.visual.transformer.resblocks[0].mlp.append(nn.Dropout(0.5))
    model = build(tiny_clip).train()
    assert_same(model(some_images(3)), expected, 0)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("mode", ["plain", "inference", "bf16", "bf16 inference"])
@pytest.mark.parametrize("steps", [0, 2])
def test_modes(tiny_clip, mode, steps):
    model = build(tiny_clip, steps=steps)
    expected = model(some_images(3), names(3))
    model.reset()
    with torch.inference_mode("inference" in mode), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in mode):
        results = [model(some_images(3), names(3)), model(some_images(1, seed=1), ["lone.png"])]
    for result in results:
        for tensor in (result.pred_score, result.anomaly_map):
            assert tensor.dtype == torch.float32
            assert torch.isfinite(tensor).all()
            assert not tensor.requires_grad
    if mode == "inference":
        assert_same(results[0], expected, 0)
    maximum = model.weights.map_maximum
    assert_same(results[0].anomaly_map, expected.anomaly_map, 0.1 * maximum if "bf16" in mode else 1e-5)


def test_scores_are_not_rounded_to_bfloat16(tiny_clip):
    # At the temperature of CLIP, a cosine in bfloat16 would shift a score by tens of percent.
    model = build(tiny_clip, references=0, steps=0, temperature=0.01)
    images, features = some_images(8), []
    model.encoder.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images).pred_score
    texts = model.text_embeddings.double()

    def literal(tokens: Tensor) -> Tensor:
        return (tokens.double() @ texts.T / 0.01).softmax(dim=-1)[..., 1]

    class_score, patch_scores = literal(features[0].class_token), literal(features[0].patch_tokens).flatten(1)
    assert_same(scores, (PRIMES.lambda_3 * class_score + PRIMES.lambda_5 * patch_scores.amax(dim=1)).float(), 1e-3)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("temperature", [0.001, 0.01, 1.0])
@pytest.mark.parametrize("kind", ["identical", "black", "white"])
def test_odd_images_stay_finite(tiny_clip, kind, steps, temperature):
    images = {
        "identical": some_images(1).expand(4, -1, -1, -1),
        "black": normalized(torch.zeros(4, 3, TILE, TILE)),
        "white": normalized(torch.ones(4, 3, TILE, TILE)),
    }[kind]
    model = build(tiny_clip, steps=steps, temperature=temperature)
    predictions = model(images, names(4))
    assert torch.isfinite(predictions.pred_score).all()
    assert torch.isfinite(predictions.anomaly_map).all()
    assert predictions.anomaly_map.min() >= 0
    assert predictions.anomaly_map.max() <= PRIMES.map_maximum
    assert predictions.pred_score.max() <= PRIMES.score_maximum


def test_identical_images_have_no_visual_anomaly(tiny_clip):
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY)
    predictions = model(some_images(1).expand(4, -1, -1, -1), names(4))
    assert_same(predictions.anomaly_map, torch.zeros(4, TILE, TILE))
    assert_same(predictions.pred_score, torch.zeros(4))


def test_spot_on_one_image_is_where_the_map_is_hottest(tiny_clip):
    image = some_images(1, seed=4)
    spoilt = image.clone()
    spoilt[..., 16:32, 32:48] = normalized(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1))
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY, smooth=False)
    heat = model(torch.cat([spoilt, image]), names(2)).anomaly_map[0]
    y, x = divmod(heat.argmax().item(), TILE)
    # Bilinear maps peak at the patch's place on the 4x4 grid stretched over the image.
    assert math.hypot(y - 1 / 3 * (TILE - 1), x - 2 / 3 * (TILE - 1)) < PATCH / 2
