from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dual_image_clip.hooks.one_evaluation import digest_of_batch, digest_of_run
from dual_image_clip.method import AdaptationSettings, ScoreWeights
from tests.helpers import random_images, tiny_model
from tests.hooks.runs import Listed, trainer_with


class Photos(Listed):
    def __init__(self, paths, length=None) -> None:
        super().__init__(paths, "samples")
        self._length = len(paths) if length is None else length

    def __len__(self) -> int:
        return self._length


def running(model, *datasets, stage="validate", precision="32-true"):
    """A model with a run under way."""
    trainer = trainer_with(stage, *datasets)
    trainer.precision = precision
    return SimpleNamespace(model=model.model, trainer=trainer, reader=model.reader, pre_processor=model.pre_processor)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_test_of_the_same_photos_has_the_digest_of_the_validation(model, tmp_path):
    photo = tmp_path / "a.png"
    photo.touch()
    digests = {digest_of_run(running(model, Photos([photo]), stage=stage)) for stage in ("validate", "test")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", ScoreWeights(lambda_5=2)),
        ("adaptation", AdaptationSettings(beta=0.4)),
        ("temperature", 0.02),
        ("image_size", (32, 32)),
        ("smooth", False),
        ("aggregation", "median"),
        ("image_mean", torch.zeros(3)),
        ("adapter_bias", torch.zeros(1, 24)),
        ("text_embeddings", torch.zeros(2, 24)),
        ("golden_references", torch.zeros(16, 24)),
    ],
)
def test_a_setting_of_the_model_changes_the_digest(name, value, model, monkeypatch):
    before = digest_of_run(running(model))
    monkeypatch.setattr(model.model, name, value)
    assert digest_of_run(running(model)) != before


def test_what_stands_beside_the_model_changes_the_digest(model, tmp_path, monkeypatch):
    photos = [tmp_path / name for name in ("a.png", "b.png", "texture.png")]
    for each in photos:
        each.write_bytes(b"1")
    first, second, texture = photos
    digests = [digest_of_run(running(model, *each)) for each in ([], [Photos([first])], [Photos([first, second])])]
    digests += [digest_of_run(running(model, Photos([second, first])))]
    digests += [digest_of_run(running(model, precision="16-mixed"))]
    with monkeypatch.context() as patch:
        patch.setattr(model, "reader", replace(model.reader, value_range=(0, 5)))
        digests += [digest_of_run(running(model))]
        patch.setattr(model.model.pseudo_anomalies, "textures", [texture])
        digests += [digest_of_run(running(model))]
        texture.write_bytes(b"22")
        digests += [digest_of_run(running(model))]
    first.write_bytes(b"22")
    digests += [digest_of_run(running(model, Photos([first])))]
    assert len(set(digests)) == len(digests)


def test_photos_that_are_not_listed_have_no_digest_twice(model):
    module = running(model, Photos([], length=3))
    assert digest_of_run(module) != digest_of_run(module)


def test_everything_about_a_batch_and_those_before_it_changes_its_digest():
    images, names = random_images(2, 3, 8, 8), ["a", "b"]
    digests = [
        digest_of_batch(b"", images, names),
        digest_of_batch(b"another", images, names),
        digest_of_batch(b"", images, ["b", "a"]),
        digest_of_batch(b"", images.flip(0), names),
        digest_of_batch(b"", images.half(), names),
        digest_of_batch(b"", images.view(2, 3, 4, 16), names),
        digest_of_batch(b"", images[:1], names),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        digests.append(digest_of_batch(b"", images, names))
    assert len(set(digests)) == len(digests)
    assert digest_of_batch(b"", images.clone(), list(names)) == digests[0]
