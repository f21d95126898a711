"""All peers on drawn images, with the checkpoint inside the package."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kornia.enhance import normalize
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.paper.peers import anoclip, clip, musc, winclip
from benchmarks.paper.peers.scores import Scores
from dual_image_clip.method import encode_ensemble, prompt_ensemble
from dual_image_clip.procedural import Category
from dual_image_clip.weights import EMBEDDED, Backbone, load_backbone
from tests.helpers import assert_same

pytestmark = pytest.mark.open_clip

CLASS_NAME = "gear"
DEFECTS = ("missing_part", "stain", "glue")


class Drawn(NamedTuple):
    backbone: Backbone
    images: Tensor
    masks: np.ndarray
    text: Tensor


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    backbone = load_backbone(EMBEDDED, EMBEDDED)
    category = Category(CLASS_NAME, 3)
    good = [category.normal("test", index) for index in range(len(DEFECTS))]
    defective = [category.anomalous("anomalous", index, defect) for index, defect in enumerate(DEFECTS)]
    pictures = torch.from_numpy(np.stack([*good, *(image for image, _ in defective)]))
    masks = np.stack([*(np.zeros(backbone.image_size, bool) for _ in good), *(mask for _, mask in defective)])
    images = normalize(
        pictures.permute(0, 3, 1, 2) / 255, torch.tensor(backbone.image_mean), torch.tensor(backbone.image_std)
    )
    text = encode_ensemble(backbone.clip, backbone.tokenizer, prompt_ensemble(CLASS_NAME))
    return Drawn(backbone, images, masks, text)


@pytest.fixture(scope="module")
def scored(drawn: Drawn) -> Callable[[str], Scores]:
    """Scores of a peer, computed once."""
    return functools.cache(lambda peer: score_with(peer, drawn))


def in_chunks(encode, images: Tensor, size: int = 2):
    """Encodes as the benchmark does, a few images at once."""
    chunks = [encode(chunk) for chunk in images.split(size)]
    if isinstance(chunks[0], Tensor):
        return torch.cat(chunks)
    parts = []
    for part in zip(*chunks, strict=True):
        parts.append(torch.cat(part) if isinstance(part[0], Tensor) else [torch.cat(each) for each in zip(*part)])  # noqa: B905
    return type(chunks[0])(*parts)


def score_with(peer: str, drawn: Drawn, chunk: int = 2) -> Scores:
    backbone, images, _, text = drawn
    visual, size, temperature = backbone.clip.visual, backbone.image_size, backbone.temperature
    if peer == "clip":
        tokens = in_chunks(lambda each: clip.ordinary_path(visual, each), images, chunk)
        return clip.score(tokens.class_token, tokens.patch_tokens, text, temperature, size)
    if peer.startswith("anoclip"):
        views = in_chunks(lambda each: anoclip.encode_views(visual, each), images, chunk)
        patches = in_chunks(lambda each: anoclip.encode_patches(visual, each), images, chunk)
        prompts = anoclip.encode_class_prompts(backbone.clip, backbone.tokenizer, CLASS_NAME)
        steps = 5 if peer.endswith("adapted") else 0
        return anoclip.score(views, patches, text, temperature, size, prompts, adaptation_steps=steps)
    if peer == "winclip":
        model = winclip.WinClip(backbone.clip, backbone.tokenizer, CLASS_NAME, temperature)
        return winclip.score(model, in_chunks(lambda each: winclip.encode(model, each), images, chunk))
    tokens = in_chunks(lambda each: musc.encode(visual, each), images, chunk)
    if peer == "musc":
        return musc.score_set(tokens.layer_tokens, tokens.class_token, size)
    return musc.score_pairs(tokens.layer_tokens, torch.arange(len(images)).roll(1), size)


PEERS = {"clip": 1, "anoclip": 1, "anoclip, adapted": 1, "winclip": 1, "musc": 2, "musc-2": 2}
"""Each peer with the largest value that its maps can take."""


@pytest.mark.parametrize("peer", PEERS)
def test_peers_score_drawn_images_in_inference_mode(drawn, peer):
    with torch.inference_mode():
        scores = score_with(peer, drawn)
    assert scores.images.shape == (6,)
    assert scores.maps.shape == (6, 240, 240)
    for values in scores:
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= PEERS[peer]
        # Text scores at τ = 1 are all near 0.5.
        assert values.std() > 1e-4


@pytest.mark.parametrize("peer", PEERS)
def test_chunks_of_another_size_change_nothing(drawn, scored, peer):
    expected, scores = scored(peer), score_with(peer, drawn, chunk=6)
    assert_same(scores.maps, expected.maps, 2e-3)
    assert_same(scores.images, expected.images, 2e-3)


@pytest.mark.parametrize(("peer", "least"), [("anoclip", 0.65), ("musc", 0.8), ("musc-2", 0.75)])
def test_peers_that_look_at_patches_find_drawn_defects(drawn, scored, peer, least):
    scores = scored(peer)
    areas = [
        roc_auc_score(mask.ravel(), scores.maps[image].numpy().ravel())
        for image, mask in enumerate(drawn.masks)
        if mask.any()
    ]
    assert np.mean(areas) > least
