import itertools

import pytest
import torch

from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.methods import score
from benchmarks.paper.plan import Setting
from dual_image_clip.method import PseudoAnomalyGenerator
from tests.helpers import assert_same

SETTINGS = (
    Setting("clip"),
    Setting("winclip"),
    Setting("anoclip", adaptation_steps=2),
    Setting("anoclip", adaptation_steps=0),
    Setting("musc2"),
    Setting("musc"),
    Setting("ours"),
    Setting("ours", adaptation_steps=0),
    Setting("ours", adaptation_steps=4, lambda_1=0.5),
    Setting("ours", num_references=0),
    Setting("ours", num_references=3, partners="any", beta=0.1),
    Setting("ours", partners="normal"),
)
ORDINARY_AND_VV, ORDINARY, VV, VIEWS, WINCLIP = 1, 1, 1, 22, 1


@pytest.fixture
def seen(tiny):
    """Images that the image tower sees, one by one and at once; and prompts that the text tower sees."""

    class Seen:
        images = 0
        most_at_once = 0
        prompts = 0

    def count_images(module, inputs):
        Seen.images += len(inputs[0])
        Seen.most_at_once = max(Seen.most_at_once, len(inputs[0]))

    def count_prompts(module, inputs):
        Seen.prompts += len(inputs[0])

    tiny.clip.visual.conv1.register_forward_pre_hook(count_images)
    tiny.clip.token_embedding.register_forward_pre_hook(count_prompts)
    return Seen


@pytest.mark.parametrize("width", [64, 100])
def test_every_tower_pass_happens_once_and_none_is_larger_than_a_batch(width, tiny, seen, plates):
    features = CategoryFeatures(plates(6, 64, width), tiny, batch_size=4)
    tiles = 6 * features.layout.num_tiles
    seeds = range(3)
    for seed, setting in itertools.product(seeds, SETTINGS):
        score(features, setting, seed)
    assert seen.images == tiles * (ORDINARY_AND_VV + ORDINARY + VV + VIEWS + WINCLIP + len(seeds))
    assert seen.most_at_once == 4


def test_text_is_encoded_once(tiny, seen, plates):
    features = CategoryFeatures(plates(4, 64, 64), tiny, batch_size=4)
    for setting in SETTINGS:
        score(features, setting, 0)
    assert seen.prompts > 0
    once = seen.prompts
    for seed, setting in itertools.product((1, 2), SETTINGS):
        score(features, setting, seed)
    assert seen.prompts == once


@pytest.mark.parametrize(
    ("setting", "passes"),
    [
        (Setting("clip"), ORDINARY),
        (Setting("musc"), ORDINARY),
        (Setting("winclip"), WINCLIP),
        (Setting("anoclip", adaptation_steps=0), VV + VIEWS),
        (Setting("ours", adaptation_steps=0), ORDINARY_AND_VV),
        (Setting("ours"), ORDINARY_AND_VV + 1),
    ],
    ids=lambda value: value.key if isinstance(value, Setting) else None,
)
def test_nothing_is_encoded_that_a_setting_does_not_need(setting, passes, tiny, seen, plates):
    score(CategoryFeatures(plates(6, 64, 64), tiny, batch_size=4), setting, 0)
    assert seen.images == 6 * passes


def test_what_belongs_to_a_seed_is_forgotten_and_nothing_else(tiny, seen, plates):
    features = CategoryFeatures(plates(6, 64, 64), tiny, batch_size=4)
    # Settings in whose keys the numbers of the seeds occur.
    settings = [Setting("ours", num_references=number, adaptation_steps=number, beta=number) for number in (1, 2)]
    for seed, setting in itertools.product((0, 1, 2), settings):
        score(features, setting, seed)
    features.done_with_seed(1)
    computed = dict(features.memo.seconds)
    for seed, setting in itertools.product((0, 2), settings):
        score(features, setting, seed)
    assert features.memo.seconds == computed
    before = seen.images
    score(features, settings[0], 1)
    assert seen.images == before + 6


def test_pseudo_anomalies_are_those_of_the_seed_whatever_the_batch_size(tiny, plates):
    category = plates(6, 64, 100)
    (tokens, covered), (small_batches, _) = (
        CategoryFeatures(category, tiny, batch_size).pseudo_anomalies(5) for batch_size in (64, 2)
    )
    assert_same(tokens, small_batches)
    masks = PseudoAnomalyGenerator(seed=5)(category.images).masks
    assert tokens.shape[:2] == covered.shape == (6, 2 * 16)
    assert covered.any(dim=1).all()
    shares = [masks[:, 0, :, x : x + 64].unfold(1, 16, 16).unfold(2, 16, 16).mean(dim=(-2, -1)) for x in (0, 36)]
    shares = torch.stack(shares, dim=1).flatten(1)
    assert covered[shares >= 0.5].all()
    assert not covered[(shares < 0.5) & (shares < shares.amax(dim=1, keepdim=True))].any()


def test_tokens_of_one_image_stand_together(tiny, plates):
    category = plates(4, 64, 100)
    features = CategoryFeatures(category, tiny, batch_size=3)
    for index in range(4):
        alone = CategoryFeatures(category._replace(images=category.images[index : index + 1]), tiny, batch_size=8)
        for several, one in zip(features.two_paths, alone.two_paths, strict=True):
            assert_same(several[index : index + 1], one)
    assert len(features) == 4
