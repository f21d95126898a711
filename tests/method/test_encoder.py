import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.model import resize_pos_embed
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from dual_image_clip.method import DualPathEncoder
from tests.helpers import TINY, add_noise, assert_same, random_images

pytestmark = pytest.mark.open_clip


def tiny_variant(quick_gelu: bool = False, **vision) -> nn.Module:
    config = copy.deepcopy(open_clip.get_model_config(TINY))
    config["vision_cfg"].update(vision)
    torch.manual_seed(1)
    clip = open_clip.CLIP(**config, quick_gelu=quick_gelu)
    add_noise(clip.visual)
    return clip


def ordinary_block(block: nn.Module, tokens: Tensor) -> Tensor:
    # Older releases of open_clip run their blocks on (N, B, C).
    return block(tokens) if block.attn.batch_first else block(tokens.transpose(0, 1)).transpose(0, 1)


@torch.no_grad()
def literal_patch_tokens(visual: nn.Module, images: Tensor) -> Tensor:
    """The V-V path word by word: every block, every head, nothing shared and nothing left out."""
    embedded = []
    handle = visual.ln_pre.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    visual(images)
    handle.remove()
    ordinary = local = embedded[0]
    for block in visual.transformer.resblocks:
        attention = block.attn
        width = ordinary.shape[-1]
        head_dim = width // attention.num_heads
        value_weight, value_bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        values = block.ln_1(ordinary) @ value_weight.T + value_bias
        heads = []
        for v in values.split(head_dim, dim=-1):
            weights = torch.softmax(v @ v.transpose(1, 2) * head_dim**-0.5, dim=-1)
            heads.append(weights @ v)
        local = local + torch.cat(heads, dim=-1) @ attention.out_proj.weight.T + attention.out_proj.bias
        ordinary = ordinary_block(block, ordinary)
    tokens = visual.ln_post(local[:, 1:]) @ visual.proj
    tokens = tokens / tokens.norm(dim=-1, keepdim=True)
    rows, columns = (size // patch for size, patch in zip(images.shape[-2:], visual.patch_size, strict=True))
    return tokens.reshape(len(images), rows, columns, -1)


@torch.no_grad()
def plain_class_token(clip: nn.Module, images: Tensor) -> Tensor:
    return F.normalize(clip.eval().encode_image(images), dim=-1)


def test_class_token_is_that_of_plain_clip(tiny_clip):
    images = random_images(3, 3, 64, 64)
    features = DualPathEncoder(tiny_clip.visual)(images)
    assert_same(features.class_token, plain_class_token(tiny_clip, images))


def test_patch_tokens_equal_a_literal_vv_path(tiny_clip):
    images = random_images(3, 3, 64, 64)
    features = DualPathEncoder(tiny_clip.visual)(images)
    assert features.patch_tokens.shape == (3, 4, 4, 24)
    assert_same(features.patch_tokens, literal_patch_tokens(tiny_clip.visual, images))


def test_real_architecture():
    clip = open_clip.create_model("ViT-B-16-plus-240").eval()
    images = random_images(1, 3, 240, 240)
    features = DualPathEncoder(clip.visual)(images)
    assert features.patch_tokens.shape == (1, 15, 15, 640)
    assert_same(features.class_token, plain_class_token(clip, images))
    assert_same(features.patch_tokens, literal_patch_tokens(clip.visual, images))


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_patch_tokens_alone_equal_those_of_forward(tiny_clip, size):
    encoder = DualPathEncoder(tiny_clip.visual)
    images = random_images(2, 3, *size)
    assert_same(encoder.patch_tokens(images), encoder(images).patch_tokens, tolerance=1e-6)


def test_an_image_is_encoded_the_same_in_any_batch(tiny_clip):
    encoder = DualPathEncoder(tiny_clip.visual)
    images = random_images(3, 3, 64, 64)
    together = encoder(images)
    for index in range(3):
        alone = encoder(images[index : index + 1])
        assert_same(alone.class_token[0], together.class_token[index])
        assert_same(alone.patch_tokens[0], together.patch_tokens[index])


def test_features_are_float32_of_length_one_without_gradient(tiny_clip):
    for tokens in DualPathEncoder(tiny_clip.visual)(random_images(2, 3, 64, 64)):
        assert tokens.dtype == torch.float32
        assert not tokens.requires_grad
        assert_same(tokens.norm(dim=-1), torch.ones(tokens.shape[:-1]))


@pytest.mark.parametrize("size", [(128, 128), (32, 32), (96, 64), (48, 80), (16, 48), (16, 16)])
def test_other_sizes_equal_open_clip_resized(tiny_clip, size):
    images = random_images(2, 3, *size)
    resized = open_clip.create_model(TINY, force_image_size=size).eval()
    state = dict(tiny_clip.state_dict())
    resize_pos_embed(state, resized)
    resized.load_state_dict(state)

    features = DualPathEncoder(tiny_clip.visual)(images)
    assert_same(features.class_token, plain_class_token(resized, images))
    assert_same(features.patch_tokens, literal_patch_tokens(resized.visual, images))


def test_tower_of_a_non_square_size():
    clip = tiny_variant(image_size=(48, 80))
    images = random_images(2, 3, 48, 80)
    features = DualPathEncoder(clip.visual)(images)
    assert_same(features.class_token, plain_class_token(clip, images))
    assert_same(features.patch_tokens, literal_patch_tokens(clip.visual, images))


@pytest.mark.parametrize(
    "changes",
    [
        {"ls_init_value": 0.3},
        {"quick_gelu": True},
        {"no_ln_pre": True},
        {"final_ln_after_pool": True},
        {"patch_dropout": 0.5},
        {"layers": 1},
        {"head_width": 48},
        {"patch_size": 8},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_class_token_of_other_plain_vits(changes):
    clip = tiny_variant(**changes)
    images = random_images(2, 3, 64, 64)
    features = DualPathEncoder(clip.visual)(images)
    assert_same(features.class_token, plain_class_token(clip, images))
    if "ls_init_value" not in changes:
        assert_same(features.patch_tokens, literal_patch_tokens(clip.visual, images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_stays_close_to_full_precision(tiny_clip, dtype):
    encoder = DualPathEncoder(tiny_clip.visual)
    images = random_images(2, 3, 64, 64)
    exact = encoder(images)
    with torch.autocast("cpu", dtype):
        rough = encoder(images)
    for tokens, reference in zip(rough, exact, strict=True):
        assert tokens.dtype == torch.float32
        assert torch.isfinite(tokens).all()
        assert_same(tokens.norm(dim=-1), torch.ones(tokens.shape[:-1]))
        assert F.cosine_similarity(tokens, reference, dim=-1).min() > 0.99


def test_tower_of_half_precision_takes_ordinary_images(tiny_clip):
    images = random_images(2, 3, 64, 64)
    exact = DualPathEncoder(tiny_clip.visual)(images)
    rough = DualPathEncoder(copy.deepcopy(tiny_clip.visual).bfloat16())(images)
    for tokens, reference in zip(rough, exact, strict=True):
        assert tokens.dtype == torch.float32
        assert F.cosine_similarity(tokens, reference, dim=-1).min() > 0.99


def test_stays_frozen_and_in_evaluation_mode():
    # Patches dropped at random would show at once.
    encoder = DualPathEncoder(tiny_variant(patch_dropout=0.5).train().visual)
    images = random_images(1, 3, 64, 64)
    before = encoder(images)
    nn.Sequential(encoder).train()
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert_same(encoder(images).class_token, before.class_token, tolerance=0)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def test_tower_is_read_and_not_changed(tiny_clip):
    def snapshot():
        modules = [
            (name, module, set(vars(module)), [len(getattr(module, hooks)) for hooks in HOOKS])
            for name, module in tiny_clip.named_modules()
        ]
        return modules, [(name, weight) for name, weight in tiny_clip.visual.named_parameters()]

    modules, weights = snapshot()
    values = copy.deepcopy(tiny_clip.state_dict())
    encoder = DualPathEncoder(tiny_clip.visual)
    encoder(random_images(1, 3, 64, 64))
    encoder.patch_tokens(random_images(1, 3, 48, 80))
    modules_after, weights_after = snapshot()

    assert encoder.visual is tiny_clip.visual
    assert modules_after == modules  # modules compare by identity
    assert all(sum(counts) == 0 for *_, counts in modules_after)
    assert [(name, id(weight)) for name, weight in weights_after] == [(name, id(weight)) for name, weight in weights]
    for name, weight in tiny_clip.state_dict().items():
        assert torch.equal(weight, values[name]), name


def test_patch_size_is_told(tiny_clip):
    assert tuple(DualPathEncoder(tiny_clip.visual).patch_size) == (16, 16)


def resnet() -> nn.Module:
    return open_clip.create_model("RN50", pretrained=None).visual


def timm_tower() -> nn.Module:
    return TimmModel("vit_tiny_patch16_224", embed_dim=24, image_size=64, pretrained=False)


def tower_with_foreign_attention() -> nn.Module:
    visual = tiny_variant().visual
    visual.transformer.resblocks[1].attn = nn.Identity()
    return visual


def tower_without_projection() -> nn.Module:
    visual = tiny_variant().visual
    visual.proj = None
    return visual


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (resnet, "ModifiedResNet"),
        (timm_tower, "TimmModel"),
        (lambda: nn.Linear(3, 3), "Linear"),
        (lambda: tiny_variant(pool_type="avg").visual, "pools its tokens"),
        (lambda: tiny_variant(attentional_pool=True, attn_pooler_heads=4).visual, "pools its tokens"),
        (tower_without_projection, "projection"),
        (tower_with_foreign_attention, "multi-head attention"),
    ],
    ids=["resnet", "timm", "no tower", "average pool", "attention pool", "no projection", "foreign attention"],
)
def test_other_towers_are_refused(make, culprit):
    with pytest.raises(TypeError, match=culprit) as caught:
        DualPathEncoder(make())
    assert "ViT-B-16-plus-240" in str(caught.value)  # what to use instead


@pytest.mark.parametrize(
    ("shape", "culprit"),
    [
        ((1, 3, 8, 64), r"8×64 pixels are smaller than one 16×16 patch"),
        ((1, 3, 64, 15), r"64×15 pixels are smaller than one 16×16 patch"),
        ((1, 3, 64, 70), r"multiples of 16 and 16, got 64×70"),
        ((1, 3, 60, 64), r"multiples of 16 and 16, got 60×64"),
        ((1, 1, 64, 64), r"\(B, 3, H, W\), got \(1, 1, 64, 64\)"),
        ((1, 4, 64, 64), r"\(B, 3, H, W\), got \(1, 4, 64, 64\)"),
        ((3, 64, 64), r"\(B, 3, H, W\), got \(3, 64, 64\)"),
    ],
    ids=["low", "narrow", "odd width", "odd height", "grey", "four channels", "no batch"],
)
@pytest.mark.parametrize("method", ["forward", "patch_tokens"])
def test_other_image_shapes_are_refused(tiny_clip, method, shape, culprit):
    encoder = DualPathEncoder(tiny_clip.visual)
    with pytest.raises(ValueError, match=culprit):
        getattr(encoder, method)(torch.zeros(shape))
