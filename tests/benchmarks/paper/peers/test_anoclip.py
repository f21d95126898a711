import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import uniform_filter, zoom
from torch import Tensor, nn

from benchmarks.paper.peers.anoclip import encode_class_prompts, encode_patches, encode_views, score
from benchmarks.paper.peers.anoclip_adaptation import (
    ResidualAdapters,
    adapt,
    adapt_to_each_image,
    initial_adapter,
    loss,
)
from benchmarks.paper.peers.anoclip_views import views
from dual_image_clip.method import DualPathEncoder, prompt_ensemble
from tests.helpers import assert_same, seeded, unit_vectors

pytestmark = pytest.mark.open_clip

PATCHES, DIM, PROMPTS = 9, 12, 7


def some_tokens(images: int = 3, seed: int = 1) -> Tensor:
    """Tokens of different lengths, as projection leaves them."""
    return 4 * torch.randn(images, PATCHES, DIM, generator=seeded(seed))


def some_prompts() -> Tensor:
    return unit_vectors(PROMPTS, DIM, seed=2)


def some_text() -> Tensor:
    return unit_vectors(2, DIM, seed=3)


# Encoding


def test_views_are_encoded_as_open_clip_encodes_them(tiny_clip):
    images = torch.randn(2, 3, 64, 64, generator=seeded(0))
    tokens = encode_views(tiny_clip.visual, images)
    assert tokens.shape == (2, 22, 24)
    with torch.no_grad():
        for image in range(2):
            expected = F.normalize(tiny_clip.encode_image(views(images)[image]), dim=-1)
            assert_same(tokens[image], expected)


def test_patches_have_the_direction_of_the_two_path_encoder_and_their_own_length(tiny_clip):
    images = torch.randn(2, 3, 64, 64, generator=seeded(0))
    tokens = encode_patches(tiny_clip.visual, images)
    directions = DualPathEncoder(tiny_clip.visual)(images).patch_tokens
    assert_same(F.normalize(tokens, dim=-1), directions)
    # The length that ln_post and the projection give, from the directions alone: they differ from patch to patch.
    lengths = tokens.norm(dim=-1)
    assert lengths.std() > 1e-3 * lengths.mean()
    assert not torch.allclose(lengths, torch.ones(()), atol=1e-2)
    assert tokens.dtype == torch.float32
    assert not tokens.requires_grad


def test_prompts_are_those_of_both_states_one_by_one(tiny_clip):
    embeddings = encode_class_prompts(tiny_clip, open_clip.get_tokenizer("tiny-vit"), "bolt")
    normal, anomalous = prompt_ensemble("bolt")
    assert embeddings.shape == (len(normal) + len(anomalous), 24)
    tokens = open_clip.tokenize([normal[0], anomalous[-1]])
    with torch.no_grad():
        expected = F.normalize(tiny_clip.encode_text(tokens), dim=-1)
    assert_same(embeddings[[0, -1]], expected)


# Scores without adaptation


def literal_probability(token: Tensor, text: Tensor, temperature: float) -> float:
    token = token / token.norm()
    normal, anomalous = (math.exp(float(token @ each) / temperature) for each in text)
    return anomalous / (normal + anomalous)


def test_no_steps_give_text_scores_alone():
    class_views, tokens, text = unit_vectors(2, 22, DIM), some_tokens(2).unflatten(1, (3, 3)), some_text()
    scores = score(class_views, tokens, text, temperature=0.5, image_size=(9, 9), adaptation_steps=0)
    expected = [np.mean([literal_probability(view, text, 0.5) for view in image]) for image in class_views]
    assert scores.images.tolist() == pytest.approx(expected, abs=1e-6)
    for image in range(2):
        patch_map = np.array([[literal_probability(token, text, 0.5) for token in row] for row in tokens[image]])
        smooth = uniform_filter(patch_map, 3, mode="nearest")
        np.testing.assert_allclose(scores.maps[image], zoom(smooth, 3, order=1), atol=1e-5)


def test_adaptation_changes_the_maps_and_not_the_image_scores():
    arguments = (unit_vectors(2, 22, DIM), some_tokens(2).unflatten(1, (3, 3)), some_text(), 0.5, (9, 9))
    plain = score(*arguments, adaptation_steps=0)
    adapted = score(*arguments, some_prompts())
    assert torch.equal(plain.images, adapted.images)
    assert not torch.allclose(plain.maps, adapted.maps, atol=1e-3)
    assert plain.maps.shape == adapted.maps.shape == (2, 9, 9)


def test_scores_are_those_of_the_adapted_tokens():
    tokens, text, prompts = some_tokens(2), some_text(), some_prompts()
    adapted = adapt_to_each_image(tokens, prompts, text, temperature=1.0, steps=5, seed=4)
    views_of_both = unit_vectors(2, 22, DIM)
    expected = score(views_of_both, adapted.unflatten(1, (3, 3)), text, 0.5, (9, 9), adaptation_steps=0)
    actual = score(views_of_both, tokens.unflatten(1, (3, 3)), text, 0.5, (9, 9), prompts, seed=4)
    torch.testing.assert_close(actual.maps, expected.maps)


def test_adaptation_without_prompts_is_refused():
    with pytest.raises(ValueError, match="needs the embeddings of all prompts"):
        score(unit_vectors(2, 22, DIM), some_tokens(2).unflatten(1, (3, 3)), some_text(), 0.5, (9, 9))


@pytest.mark.parametrize("shape", [(2, 21, DIM), (2, DIM)])
def test_another_number_of_views_is_refused(shape):
    tokens = some_tokens(2).unflatten(1, (3, 3))
    with pytest.raises(ValueError, match=r"\(N, 22, D\)"):
        score(unit_vectors(*shape), tokens, some_text(), 0.5, (9, 9), adaptation_steps=0)


# The adaptation


class LiteralAdapter(nn.Module):
    """The adapter of one image, token by token."""

    def __init__(self, start: ResidualAdapters, prompts: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(prompts.shape[1], prompts.shape[0])
        self.prompts = prompts
        with torch.no_grad():
            self.layer.weight.copy_(start.weight[0])
            self.layer.bias.copy_(start.bias[0])

    def forward(self, token: Tensor) -> Tensor:
        affinities = torch.tanh(self.layer(token / token.norm()))
        mixture = sum(affinity * prompt for affinity, prompt in zip(affinities, self.prompts, strict=True))
        return 0.5 * token + 0.5 * mixture


def literal_loss(adapted: list[Tensor], noisy: list[Tensor], text: Tensor, temperature: float) -> Tensor:
    """Entropy of the untouched tokens, and half of two cross-entropies: noise is anomalous, no noise is normal."""

    def probabilities(token: Tensor) -> Tensor:
        exponentials = torch.stack([torch.exp(token / token.norm() @ each / temperature) for each in text])
        return exponentials / exponentials.sum()

    terms = []
    for token, noisy_token in zip(adapted, noisy, strict=True):
        share, noisy_share = probabilities(token), probabilities(noisy_token)
        soft = -sum(each * torch.log(each) for each in share)
        hard = -torch.log(noisy_share[1]) - torch.log(share[0])
        terms.append(soft + 0.5 * hard)
    return sum(terms) / len(terms)


def fit_one_by_hand(tokens: Tensor, start: ResidualAdapters, noise: Tensor, temperature: float) -> Tensor:
    """One image, one linear layer and one stock optimiser; the adapted tokens, of length one."""
    adapter = LiteralAdapter(start, some_prompts())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, foreach=False)
    for of_step in noise:
        adapted = [adapter(token) for token in tokens]
        noisy = [adapter(token) for token in tokens + of_step]
        optimizer.zero_grad()
        literal_loss(adapted, noisy, some_text(), temperature).backward()
        optimizer.step()
    with torch.no_grad():
        return F.normalize(torch.stack([adapter(token) for token in tokens]), dim=-1)


@pytest.mark.parametrize(("steps", "temperature"), [(5, 1.0), (2, 0.1)])
def test_adaptation_equals_one_linear_layer_and_one_optimizer_per_image(steps, temperature):
    tokens = some_tokens(3)
    generator = seeded(6)
    start = initial_adapter(PROMPTS, DIM, generator)
    noise = 0.055 * torch.randn(steps, PATCHES, DIM, generator=generator)
    adapted = adapt_to_each_image(tokens, some_prompts(), some_text(), temperature, steps, seed=6)
    for image in range(3):
        by_hand = fit_one_by_hand(tokens[image], start, noise, temperature)
        assert_same(adapted[image], by_hand, 2e-5)


def test_loss_is_the_literal_one():
    tokens, noisy, text = unit_vectors(2, PATCHES, DIM), unit_vectors(2, PATCHES, DIM, seed=9), some_text()
    expected = [float(literal_loss(list(tokens[image]), list(noisy[image]), text, 0.3)) for image in range(2)]
    assert loss(tokens, noisy, text, 0.3).tolist() == pytest.approx(expected, abs=1e-5)


def test_loss_stays_finite_at_a_low_temperature():
    tokens, text = unit_vectors(1, PATCHES, DIM).requires_grad_(), some_text()
    value = loss(tokens, tokens, text, 1e-4).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(tokens.grad).all()


def test_adapters_keep_the_length_of_tokens_in_mind():
    start = initial_adapter(PROMPTS, DIM, seeded(0))
    tokens, prompts = some_tokens(1), some_prompts()
    short, long = adapt(tokens / 100, start, prompts), adapt(100 * tokens, start, prompts)
    directions = F.normalize(tokens, dim=-1)
    assert (long * directions).sum(dim=-1).min() > 0.999
    assert (short * directions).sum(dim=-1).max() < 0.9


def test_a_batch_is_adapted_as_its_images_alone_whatever_its_size():
    tokens = some_tokens(18)
    together = adapt_to_each_image(tokens, some_prompts(), some_text())
    for image in (0, 15, 16, 17):
        alone = adapt_to_each_image(tokens[image : image + 1], some_prompts(), some_text())
        assert_same(together[image], alone[0])
    assert adapt_to_each_image(tokens[:0], some_prompts(), some_text()).shape == (0, PATCHES, DIM)


def test_adaptation_repeats_with_the_seed_and_leaves_the_global_randomness_alone():
    state = torch.get_rng_state()
    first, again, other = (adapt_to_each_image(some_tokens(), some_prompts(), some_text(), seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_adaptation_is_the_same_in_every_mode_and_leaves_no_graph(mode):
    expected = adapt_to_each_image(some_tokens(), some_prompts(), some_text())
    with mode():
        tokens = some_tokens()
        adapted = adapt_to_each_image(tokens, some_prompts(), some_text())
        assert not torch.is_grad_enabled()
    assert torch.equal(adapted, expected)
    assert not adapted.requires_grad
    assert adapted.grad_fn is None
    assert not tokens.requires_grad


def test_many_steps_make_noise_look_more_anomalous_than_its_absence():
    tokens, prompts, text = some_tokens(), torch.cat([some_text(), some_prompts()]), some_text()
    normal_share = [
        1 - torch.sigmoid(adapt_to_each_image(tokens, prompts, text, steps=steps) @ (text[1] - text[0])).mean()
        for steps in (0, 20, 200)
    ]
    assert normal_share[0] < normal_share[1] < normal_share[2]


def test_start_has_the_bounds_of_a_linear_layer():
    start = initial_adapter(50, 16, seeded(0))
    assert start.weight.shape == (1, 50, 16)
    assert start.bias.shape == (1, 50)
    for values in start:
        assert values.abs().max() <= 0.25
        assert values.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.2)
