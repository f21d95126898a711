"""What an image is compared with: the batch, the images before, the images ahead."""

import pytest
import torch

from tests.helpers import assert_same
from tests.torch_model.tiny import TILE, VISUAL_ONLY, Album, build, names, normalized, some_images


def test_lone_image_without_reference_is_scored_by_text_and_warned_about_once(tiny_clip, warned):
    model = build(tiny_clip)
    lone, by_text = model(some_images(1), ["a.png"]), build(tiny_clip, references=0)(some_images(1))
    assert len(warned()) == 1
    assert "no other image" in warned()[0]
    assert_same(lone, by_text, 0)
    model.reset()
    model(some_images(1), ["a.png"])
    assert len(warned()) == 1


def test_no_warning_where_no_reference_is_wanted_or_one_is_there(tiny_clip, warned):
    build(tiny_clip, references=0)(some_images(1), ["a.png"])
    model = build(tiny_clip)
    model(some_images(2), names(2))
    model(some_images(1), ["a.png"])
    assert not warned()


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_lone_image_is_compared_with_the_one_before(tiny_clip, named):
    model, image = build(tiny_clip, steps=0, weights=VISUAL_ONLY), some_images(1)
    model(some_images(3, seed=8), names(3) if named else None)
    assert model(image, ["a.png"] if named else None).anomaly_map.max() > 0.01
    copy = model(image, ["copy of a.png"] if named else None)
    assert_same(copy.anomaly_map, torch.zeros(1, TILE, TILE))


def test_image_seen_before_is_not_its_own_reference(tiny_clip):
    model, image = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY), some_images(1)
    model(some_images(1, seed=8), ["b.png"])
    first, again = model(image, ["a.png"]), model(image, ["a.png"])
    assert first.anomaly_map.max() > 0.01
    assert_same(first, again, 0)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_batch_that_lacks_references_is_filled_up_from_the_images_before(tiny_clip, named):
    model, seen, batch = (
        build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY),
        some_images(2, seed=8),
        some_images(2, seed=9),
    )
    model(seen, names(2) if named else None)
    filled = model(batch, names(2, 2) if named else None)
    expected = build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY)(torch.cat([batch, seen]))
    assert_same(filled.anomaly_map, expected.anomaly_map[:2])


@pytest.mark.parametrize(
    ("references", "seen", "batch", "asked"),
    [
        (0, [], [0], []),
        (1, [], [0], [1]),
        (1, [], [0, 1], []),
        (1, [9], [0], []),
        (3, [], [0], [3]),
        (3, [], [0, 1], [2]),
        (3, [9], [0, 1], [1]),
        (3, [8, 9], [0, 1], []),
        (3, [], [0, 1, 2, 3], []),
    ],
)
def test_exactly_what_is_missing_is_looked_for_ahead(tiny_clip, references, seen, batch, asked):
    model, album = build(tiny_clip, references=references, steps=0), Album(20, 21, 22, 23)
    for number in seen:
        model(some_images(1, seed=number), [f"image_{number}.png"])
    images = torch.cat([some_images(1, seed=number) for number in batch])
    model(images, [f"image_{number}.png" for number in batch], album)
    assert album.asked == asked


def test_images_found_ahead_serve_as_references(tiny_clip, warned):
    model, image = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY), some_images(1)
    ahead = model(image, ["a.png"], Album(20, 21))
    expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    batch = torch.cat([image, some_images(1, seed=20), some_images(1, seed=21)])
    assert_same(ahead.anomaly_map[0], expected(batch).anomaly_map[0])
    assert not warned()


def test_images_found_ahead_fill_up_though_the_batch_was_seen_before(tiny_clip):
    model = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    first, second = some_images(1, seed=1), some_images(1, seed=2)
    model(first, ["image_1.png"])
    model(second, ["image_2.png"])
    # Images 1 and 2 are remembered; for image 2, one more is missing besides image 1.
    seen_again = model(second, ["image_2.png"], Album(20))
    expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    batch = torch.cat([second, first, some_images(1, seed=20)])
    assert_same(seen_again.anomaly_map[0], expected(batch).anomaly_map[0])


@pytest.mark.parametrize("numbers", [[], [20]], ids=["nothing", "too little"])
def test_look_ahead_may_find_less_than_is_missing(tiny_clip, warned, numbers):
    predictions = build(tiny_clip, references=3)(some_images(1), ["a.png"], Album(*numbers))
    assert torch.isfinite(predictions.anomaly_map).all()
    assert len(warned()) == (0 if numbers else 1)


def test_image_found_ahead_may_have_another_size(tiny_clip):
    model, album = build(tiny_clip, steps=0, weights=VISUAL_ONLY), Album(20, size=(64, 96))
    predictions = model(some_images(1, (64, 96), seed=20)[..., :64], ["a.png"], album)
    # The image is a tile of its reference.
    assert_same(predictions.anomaly_map, torch.zeros(1, 64, 64))


def test_one_partner_with_the_same_defect_does_not_hide_it_from_the_median(tiny_clip):
    good = some_images(1, seed=4)
    spoilt = good.clone()
    spoilt[..., 16:32, 32:48] = normalized(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1))
    batch = torch.cat([spoilt, spoilt, good, good])

    def peak(aggregation: str) -> float:
        model = build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        return model(batch).anomaly_map[0].max().item()

    assert peak("minimum") < 1e-5
    assert peak("median") > 0.01


def test_unknown_aggregation_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"aggregation='mean' is unknown; choose one of 'minimum', "):
        build(tiny_clip, aggregation="mean")
