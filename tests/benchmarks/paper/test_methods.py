import itertools

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.enhance import normalize

from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.methods import depends_on_seed, draw_partners, score
from benchmarks.paper.peers import musc
from benchmarks.paper.plan import METHODS, Setting
from dual_image_clip import DualImageCLIP
from dual_image_clip.method import merge_tiles, random_partners, split_into_tiles
from dual_image_clip.weights import EMBEDDED
from tests.helpers import assert_same

TEXT_ONLY = {"num_references": 0, "lambda_1": 0.0, "lambda_4": 0.0}
OURS = {
    "base": {**TEXT_ONLY, "adaptation_steps": 0, "lambda_2": 1.0},
    "+ TTA": TEXT_ONLY,
    "+ pair (Ours)": {"adaptation_steps": 0, "lambda_2": 1.0},
    "both (Ours+)": {},
    "all else": {
        **{"num_references": 3, "adaptation_steps": 3, "learning_rate": 0.002, "beta": 0.7},
        **{f"lambda_{index}": 0.3 * index for index in range(1, 6)},
    },
}
SIZES = {"square": (240, 240), "in tiles": (240, 330)}


@pytest.fixture(scope="module", params=SIZES)
def features(request, embedded, plates):
    return CategoryFeatures(plates(5, *SIZES[request.param]), embedded, batch_size=3)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", OURS)
def test_our_scores_are_those_of_the_model_on_one_batch(name, seed, features):
    model = DualImageCLIP("plate", backbone=EMBEDDED, seed=seed, **OURS[name])
    model.set_class_name("plate")
    backbone = features.backbone
    mean, std = torch.tensor(backbone.image_mean), torch.tensor(backbone.image_std)
    expected = model.model(normalize(features.category.images, mean, std), features.category.paths)
    scores = score(features, Setting("ours", **OURS[name]), seed)
    assert_same(scores.images, expected.pred_score, 2e-4)
    assert_same(scores.maps, expected.anomaly_map, 2e-4)
    assert scores.maps.std() > 0.01


@pytest.mark.parametrize("aggregation", ["minimum", "median"])
@pytest.mark.parametrize("num_references", [0, 2])
def test_golden_references_are_those_of_the_model(num_references, aggregation, features, embedded, plates):
    category = features.category
    golden = plates(3, *category.images.shape[-2:]).images.flip(-1)
    arguments = {"num_references": num_references, "aggregation": aggregation}
    model = DualImageCLIP("plate", backbone=EMBEDDED, **arguments)
    model.set_class_name("plate")
    mean, std = torch.tensor(embedded.image_mean), torch.tensor(embedded.image_std)
    model.model.set_golden_images([normalize(image[None], mean, std) for image in golden])
    expected = model.model(normalize(category.images, mean, std), category.paths)
    with_golden = CategoryFeatures(category, embedded, 3, load_golden_images=lambda count, _: golden[:count])
    scores = score(with_golden, Setting("ours", k_shot=3, **arguments), 0)
    assert_same(scores.maps, expected.anomaly_map, 2e-4)
    assert_same(scores.images, expected.pred_score, 2e-4)


def test_golden_references_need_training_images(tiny, plates):
    with pytest.raises(ValueError, match="k_shot needs training images"):
        score(CategoryFeatures(plates(4, 64, 64), tiny, 32), Setting("ours", k_shot=1), 0)


@pytest.mark.parametrize("width", [64, 100])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_every_image_and_pixel(method, width, tiny, plates):
    scores = score(CategoryFeatures(plates(5, 64, width), tiny, batch_size=3), Setting(method), seed=0)
    assert scores.images.shape == (5,)
    assert scores.maps.shape == (5, 64, width)
    assert torch.isfinite(scores.images).all()
    assert torch.isfinite(scores.maps).all()
    assert len(scores.images.unique()) > 1
    assert scores.maps.std() > 0


def test_clip_is_open_clips_own_image_and_text_encoder(features):
    clip = features.backbone.clip
    mean, std = torch.tensor(features.backbone.image_mean), torch.tensor(features.backbone.image_std)
    tiles = split_into_tiles(normalize(features.category.images, mean, std), features.layout)
    with torch.no_grad():
        logits = clip.logit_scale.exp() * clip.encode_image(tiles, normalize=True) @ features.text.T
    expected = logits.softmax(dim=-1)[:, 1].view(5, -1).mean(dim=1)
    assert_same(score(features, Setting("clip"), 0).images, expected, 1e-4)


def test_musc_on_pairs_compares_each_tile_with_the_same_tile_of_the_partner(features):
    seed, layout = 4, features.layout
    partners = random_partners(5, 1, torch.Generator().manual_seed(seed))
    layers = features.ordinary.layer_tokens.unflatten(0, (5, layout.num_tiles))
    each = [musc.score_pairs(layers[:, tile], partners, layout.tile_size) for tile in range(layout.num_tiles)]
    scores = score(features, Setting("musc2"), seed)
    images, maps = (torch.stack(parts, dim=1) for parts in zip(*each, strict=True))
    torch.testing.assert_close(scores.images, images.mean(dim=1))
    torch.testing.assert_close(scores.maps, merge_tiles(maps.flatten(0, 1), layout))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting("clip"), False),
        (Setting("winclip"), False),
        (Setting("musc"), False),
        (Setting("musc2"), True),
        (Setting("anoclip", adaptation_steps=0), False),
        (Setting("anoclip", adaptation_steps=1), True),
        (Setting("ours", **OURS["base"]), False),
        (Setting("ours", **OURS["+ TTA"]), True),
        (Setting("ours", **OURS["+ pair (Ours)"]), True),
    ],
    ids=lambda value: value.key if isinstance(value, Setting) else None,
)
def test_what_depends_on_the_seed_is_known(setting, expected, tiny, plates):
    def run(seed):
        return score(CategoryFeatures(plates(6, 64, 64), tiny, 32), setting, seed)

    first, again, other = run(0), run(0), run(1)
    assert first.maps.equal(again.maps)
    assert first.images.equal(again.images)
    assert depends_on_seed(setting) is expected
    assert first.maps.equal(other.maps) is not expected


def test_scores_do_not_depend_on_what_was_scored_before_nor_on_the_batch_size(tiny, plates):
    settings = [Setting("ours"), Setting("ours", num_references=2, partners="normal"), Setting("musc2")]
    category = plates(6, 64, 100)
    alone = [score(CategoryFeatures(category, tiny, 32), each, 1) for each in settings]
    features = CategoryFeatures(category, tiny, batch_size=2)
    for seed, order in itertools.product((0, 1), (settings, settings[::-1])):
        for each in order:
            scores = score(features, each, seed)
            if seed == 1:
                expected = alone[settings.index(each)]
                assert_same(scores.maps, expected.maps)
                assert_same(scores.images, expected.images)
        features.done_with_seed(seed)


def test_only_images_of_the_kind_asked_for_are_compared_with(tiny, plates):
    """The others may become anything."""
    category = plates(6, 64, 64)
    spoilt = category.images.clone()
    spoilt[category.labels] = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    setting = Setting("ours", partners="normal", adaptation_steps=0)
    before, after = (
        score(CategoryFeatures(category._replace(images=images), tiny, 32), setting, 0).maps[~category.labels]
        for images in (category.images, spoilt)
    )
    assert_same(before, after)
    with_any = [
        score(CategoryFeatures(category._replace(images=images), tiny, 32), Setting("ours", adaptation_steps=0), 0)
        for images in (category.images, spoilt)
    ]
    assert not with_any[0].maps[~category.labels].allclose(with_any[1].maps[~category.labels], atol=1e-3)


@given(
    labels=st.lists(st.booleans(), min_size=2, max_size=20),
    kind=st.sampled_from(["any", "normal", "anomalous"]),
    count=st.integers(0, 8),
    seed=st.integers(0, 2**31),
)
def test_partners(labels, kind, count, seed):
    truth = torch.tensor(labels)
    setting = Setting("ours", num_references=count, partners=kind)
    allowed = {index for index, label in enumerate(labels) if kind == "any" or label == (kind == "anomalous")}
    if max(0, len(allowed) - 1) < count:
        with pytest.raises(ValueError, match="partners"):
            draw_partners(truth, setting, seed)
        return
    partners = draw_partners(truth, setting, seed)
    assert partners.shape == (len(labels), count)
    for index, chosen in enumerate(partners.tolist()):
        assert len({*chosen}) == count
        assert {*chosen} <= allowed - {index}
    assert partners.equal(draw_partners(truth, setting, seed))


def test_every_image_of_the_kind_may_become_a_partner():
    labels = torch.tensor([True, False, False, True, False])
    setting = Setting("ours", partners="normal")
    drawn = torch.stack([draw_partners(labels, setting, seed) for seed in range(200)])
    counts = [drawn[:, 0].eq(index).sum() for index in (1, 2, 4)]
    assert sum(counts) == 200
    assert min(counts) > 40


def test_too_few_partners_are_named(tiny, plates):
    features = CategoryFeatures(plates(6, 64, 64), tiny, 32)
    with pytest.raises(ValueError, match="3 anomalous partners are asked for, but some images have 2"):
        score(features, Setting("ours", num_references=3, partners="anomalous"), 0)
    with pytest.raises(ValueError, match="6 images have at most 5 partners each, not 6"):
        score(features, Setting("ours", num_references=6), 0)


def test_the_tiny_tower_is_known_to_open_clip():
    """The tests above would otherwise use something else."""
    assert open_clip.get_model_config("tiny-vit")["vision_cfg"]["image_size"] == 64
