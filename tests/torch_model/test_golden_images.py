"""Images known to be good, as references that are saved with the weights."""

import pytest
import torch
from torch import nn

from tests.helpers import assert_same
from tests.torch_model.tiny import DIM, PATCH, TILE, VISUAL_ONLY, Album, build, names, some_images


def test_golden_images_are_references_in_any_aggregation(tiny_clip):
    golden = [some_images(1, seed=80), some_images(1, (64, 96), seed=81)]
    for aggregation in ("minimum", "lowest_third", "median"):
        model = build(tiny_clip, references=0, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        model.set_golden_images(golden)
        expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        query, remembered = some_images(1), build(tiny_clip, references=0)
        for name, image in zip(names(2), golden, strict=True):
            expected.references.remember(remembered.encode(image).patches, [name])
        assert_same(model(query).anomaly_map, expected(query, ["query.png"]).anomaly_map, 1e-6)


def test_golden_tokens_are_a_buffer_of_their_size(tiny_clip):
    model = build(tiny_clip)
    assert model.golden_references.shape == (0, DIM)
    assert model.num_golden == 0
    model.set_golden_images([some_images(1), some_images(1, (64, 160))])
    patches = (TILE // PATCH) ** 2
    assert dict(model.named_buffers())["golden_references"].shape == (patches + 3 * patches, DIM)
    assert model.num_golden == 2
    model.set_golden_images([some_images(1)])
    assert model.golden_references.shape == (patches, DIM)
    model.set_golden_images([])
    assert model.golden_references.shape == (0, DIM)


def test_golden_images_outlast_a_reset_and_are_not_looked_ahead_for(tiny_clip, warned):
    model, album, image = build(tiny_clip, references=0, golden=1), Album(20), some_images(1)
    first = model(image, ["a.png"], album)
    model.reset()
    assert_same(model(image, ["a.png"], album), first, 0)
    lone = build(tiny_clip, references=1, golden=1)(image, ["a.png"])
    assert_same(lone, first, 0)
    assert not album.asked
    assert not warned()


@pytest.mark.parametrize("inference", [True, False], ids=["inference mode", "plain"])
@pytest.mark.parametrize("there_before", [0, 1, 3])
def test_golden_images_are_saved_and_restored_with_their_size(tiny_clip, tmp_path, inference, there_before):
    model = build(tiny_clip, aggregation="median")
    with torch.inference_mode(inference):
        model.set_golden_images([some_images(1, seed=80), some_images(1, (64, 96), seed=81)])
    assert not model.golden_references.is_inference()
    torch.save(nn.ModuleDict({"model": model}).state_dict(), tmp_path / "model.pt")
    restored = build(tiny_clip, aggregation="median", golden=there_before)
    nn.ModuleDict({"model": restored}).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(restored.golden_references, model.golden_references)
    assert restored.num_golden == 2
    assert_same(restored(some_images(1)), model(some_images(1)), 0)


def test_checkpoint_from_before_there_were_golden_images_can_be_loaded(tiny_clip):
    old = {name: value for name, value in build(tiny_clip).state_dict().items() if "golden" not in name}
    model = build(tiny_clip, golden=1)
    model.load_state_dict({name: value for name, value in old.items() if "extra" not in name})
    assert model.num_golden == 1


def test_golden_images_of_another_width_are_refused(tiny_clip):
    weights = build(tiny_clip, golden=1).state_dict()
    weights["golden_references"] = weights["golden_references"][:, 1:]
    with pytest.raises(RuntimeError, match="size mismatch for golden_references"):
        build(tiny_clip).load_state_dict(weights)
