"""Golden samples under anomalib's Engine."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from anomalib import LearningType
from PIL import Image
from torchvision.transforms.v2 import CenterCrop
from torchvision.transforms.v2.functional import to_image

from dual_image_clip import DualImageCLIP
from dual_image_clip.hooks import GoldenImageError
from tests import helpers
from tests.drawn_data import draw_plate, make_category, make_photos, save
from tests.helpers import assert_same, make_data, make_engine, predict

VISUAL_ONLY = {"adaptation_steps": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0, "smooth": False}


make_model = partial(helpers.make_model, adaptation_steps=0)


@pytest.fixture
def golden(workspace: Path) -> Path:
    """A folder of four good plates that are no test images."""
    for index in range(4):
        save(draw_plate(7000 + index)[0], workspace / "golden" / f"{index}.png")
    return workspace / "golden"


# What golden images do


def literal_tokens(model: DualImageCLIP, path: str) -> torch.Tensor:
    """Patches of an image file, prepared by hand."""
    pixels = to_image(Image.open(path).convert("RGB")).float()[None] / 255
    pixels = F.interpolate(pixels, (240, 240), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.backbone.image_mean, model.backbone.image_std))
    return model.model.encoder((pixels - mean) / std).patch_tokens.flatten(0, 2)


@pytest.mark.parametrize("aggregation", ["minimum", "median"])
def test_golden_only_compares_every_image_with_all_of_them(aggregation, golden, mvtec, tmp_path):
    model = make_model(
        num_references=0, k_shot=3, few_shot_source=golden, aggregation=aggregation, post_processor=False, **VISUAL_ONLY
    )
    items = predict(model, tmp_path, datamodule=make_data(mvtec))
    assert len(model.golden.paths) == 3
    references = [literal_tokens(model, path) for path in model.golden.paths]
    for path, item in items.items():
        query = literal_tokens(model, path)
        distances = torch.stack([torch.cdist(query, each).amin(dim=1) ** 2 / 2 for each in references])
        expected = distances.amin(dim=0) if aggregation == "minimum" else distances.median(dim=0).values
        assert float(item.pred_score) == pytest.approx(float(expected.max()), abs=2e-3)


def test_a_defect_that_all_images_share_is_found_with_golden_images_only(workspace, tmp_path):
    stain = (slice(40, 60), slice(70, 90))
    for index in range(4):
        image = draw_plate(300 + index)[0]
        image[stain] = (60, 20, 90)
        save(image, workspace / "stained" / f"{index}.png")
    save(draw_plate(1)[0], workspace / "golden" / "0.png")

    def contrast(**arguments) -> float:
        """How far the stain stands out from the hottest pixel elsewhere, on average over the images."""
        model = make_model(post_processor=False, **VISUAL_ONLY, **arguments)
        items = predict(model, tmp_path, data_path=workspace / "stained").values()
        maps = torch.stack([item.anomaly_map for item in items])
        # The plates are enlarged twofold.
        inside = torch.zeros(maps.shape[-2:], dtype=torch.bool)
        inside[80:120, 140:180] = True
        return float((maps[:, inside].mean(dim=1) - maps[:, ~inside].mean(dim=1)).mean())

    partners = contrast(num_references=3)
    with_golden = contrast(num_references=0, k_shot=1, few_shot_source=workspace / "golden")
    assert with_golden > 3 * partners
    assert with_golden > 0.1


def test_golden_images_and_partners_together(golden, mvtec, tmp_path):
    def maps(**arguments) -> torch.Tensor:
        source = golden if "k_shot" in arguments else None
        model = make_model(few_shot_source=source, post_processor=False, **VISUAL_ONLY, **arguments)
        items = predict(model, tmp_path, datamodule=make_data(mvtec))
        return torch.stack([item.anomaly_map for item in items.values()])

    together, partners, alone = (
        maps(num_references=1, k_shot=2),
        maps(num_references=1),
        maps(num_references=0, k_shot=2),
    )
    # Upsampling keeps order, so that the nearest patch of all is at most as far as that of some.
    for some in (partners, alone):
        assert (together <= some + 1e-5).all()
        assert not torch.allclose(together, some, atol=1e-3)


def test_the_training_set_is_the_source_without_a_folder(mvtec, tmp_path):
    model = make_model(k_shot=2, seed=3)
    assert model.learning_type is LearningType.FEW_SHOT
    make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec), verbose=False)
    assert {str(Path(path).parent) for path in model.golden.paths} == {str(mvtec / "bottle" / "train" / "good")}
    assert len(set(model.golden.paths)) == model.model.num_golden == 2
    again = make_model(k_shot=2, seed=3)
    predict(again, tmp_path, datamodule=make_data(mvtec))
    assert torch.equal(again.model.golden_references, model.model.golden_references)
    drawn = set()
    for seed in range(3):
        other = make_model(k_shot=2, seed=seed)
        predict(other, tmp_path, datamodule=make_data(mvtec))
        drawn.add(tuple(other.golden.paths))
    assert len(drawn) > 1


def test_every_category_has_golden_images_of_its_own(mvtec, photos, tmp_path):
    make_category(mvtec / "metal_nut", size=(96, 120))
    model = make_model(k_shot=2)
    for category in ("bottle", "metal_nut"):
        make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec, category=category), verbose=False)
        assert all(f"/{category}/train/good/" in path for path in model.golden.paths)
        expected = torch.cat([model.model.encode(prepared(model, path)).patches[0] for path in model.golden.paths])
        torch.testing.assert_close(model.model.golden_references, expected)
    # Without a data module they stay.
    predict(model, tmp_path, data_path=photos)
    torch.testing.assert_close(model.model.golden_references, expected)


def prepared(model: DualImageCLIP, path: str) -> torch.Tensor:
    return model.pre_process(to_image(Image.open(path)).float()[None] / 255)


def test_they_are_augmented_as_test_images_are(mvtec, tmp_path):
    def tokens(**arguments) -> torch.Tensor:
        model = make_model(k_shot=2)
        predict(model, tmp_path, datamodule=make_data(mvtec, **arguments))
        return model.model.golden_references

    assert not torch.equal(tokens(), tokens(test_augmentations=CenterCrop(60)))
    assert torch.equal(tokens(), tokens(train_augmentations=CenterCrop(60)))


def test_a_sixteen_bit_golden_image_is_as_good_as_its_eight_bit_twin(photos, workspace, tmp_path):
    grey = draw_plate(9)[0][..., 0]
    save(np.stack([grey] * 3, axis=-1), workspace / "eight" / "plate.png")
    save(grey.astype(np.uint16) * 257, workspace / "sixteen" / "plate.png")
    tokens = []
    for folder in ("eight", "sixteen"):
        model = make_model(k_shot=1, few_shot_source=workspace / folder)
        predict(model, tmp_path, data_path=photos)
        tokens.append(model.model.golden_references)
    assert_same(*tokens, 1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_reduced_precision(precision, golden, mvtec, tmp_path):
    model = make_model(k_shot=2, few_shot_source=golden, aggregation="median")
    result = make_engine(tmp_path, precision=precision).test(model=model, datamodule=make_data(mvtec), verbose=False)[0]
    assert result["pixel_AUROC"] > 0.8


# Checkpoints


@pytest.mark.parametrize("from_folder", [True, False], ids=["folder", "training set"])
def test_a_checkpoint_needs_no_folder(from_folder, golden, mvtec, photos, tmp_path):
    model, engine = make_model(k_shot=3, few_shot_source=golden if from_folder else None, seed=2), make_engine(tmp_path)
    engine.test(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    expected = predict(model, tmp_path, data_path=photos)
    shutil.rmtree(golden)
    restored = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False)
    assert restored.model.golden_references.shape == (3 * 225, model.model.golden_references.shape[1])
    assert restored.golden.paths == model.golden.paths
    for path, item in predict(restored, tmp_path, data_path=photos).items():
        assert torch.equal(item.anomaly_map, expected[path].anomaly_map)
    # A data module's training set does not replace them.
    make_category(mvtec / "metal_nut")
    predict(restored, tmp_path, datamodule=make_data(mvtec, category="metal_nut"))
    assert torch.equal(restored.model.golden_references, model.model.golden_references)


def test_a_checkpoint_before_any_evaluation_keeps_the_folder(golden, photos, tmp_path):
    model = make_model(k_shot=1, few_shot_source=golden)
    checkpoint = {"hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["few_shot_source"] == str(golden)
    predict(model, tmp_path, data_path=photos)
    checkpoint = {"hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["few_shot_source"] is None
    assert model.hparams.few_shot_source == golden


def test_a_checkpoint_without_golden_images_leaves_those_that_are_asked_for(golden, mvtec, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(model=make_model(), datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    model = make_model(k_shot=2, few_shot_source=golden)
    engine = make_engine(tmp_path)
    engine.test(model=model, datamodule=make_data(mvtec), ckpt_path=tmp_path / "model.ckpt", verbose=False)
    assert model.model.num_golden == 2


# What can go wrong


def test_a_folder_that_holds_the_query_is_refused_before_anything_is_scored(photos, tmp_path):
    with pytest.raises(GoldenImageError, match=r"plate_000.png is to be scored, but it is among the golden images"):
        predict(make_model(k_shot=1, few_shot_source=photos, seed=1), tmp_path, data_path=photos)
    inside = make_photos(photos / "golden", normal=2, defective=0)
    with pytest.raises(GoldenImageError, match="among the golden images"):
        predict(make_model(k_shot=1, few_shot_source=inside), tmp_path, data_path=photos)


def test_predicting_on_a_folder_needs_a_source(photos, tmp_path):
    with pytest.raises(GoldenImageError, match="k_shot=2 needs good images: set few_shot_source to a folder"):
        predict(make_model(k_shot=2), tmp_path, data_path=photos)


def test_more_than_the_training_set_has(mvtec, tmp_path):
    with pytest.raises(GoldenImageError, match="k_shot=7, but the training set of MVTecAD has 6 good image"):
        predict(make_model(k_shot=7), tmp_path, datamodule=make_data(mvtec))


def test_an_unreadable_golden_image_is_named(photos, workspace, tmp_path):
    path = save(draw_plate(3)[0], workspace / "golden" / "broken.jpg")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(GoldenImageError, match=r"only 0 of 1 golden images can be used: .*broken\.jpg cannot be read"):
        predict(make_model(k_shot=1, few_shot_source=path), tmp_path, data_path=photos)


def test_golden_images_of_no_use_are_passed_over_and_said(photos, workspace, tmp_path, caplog):
    folder = make_photos(workspace / "golden", normal=2, defective=0)
    (folder / "._a.png").write_text("no image")
    items = predict(make_model(k_shot=2, few_shot_source=folder, num_references=0), tmp_path, data_path=photos)
    assert len(items) == 11
    with pytest.raises(GoldenImageError, match=r"k_shot=3, but only 2 of 3 golden images can be used: .*_a\.png"):
        predict(make_model(k_shot=3, few_shot_source=folder), tmp_path, data_path=photos)
    assert "A golden image is passed over" in caplog.text


def test_a_tiny_golden_image_is_named(photos, workspace, tmp_path):
    save(np.zeros((8, 40, 3), dtype=np.uint8), workspace / "golden" / "speck.png")
    with pytest.raises(ValueError, match=r"speck.png has 8×40 pixels"):
        predict(make_model(k_shot=1, few_shot_source=workspace / "golden"), tmp_path, data_path=photos)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"k_shot": -1}, "k_shot must be at least 0, got -1"),
        ({"k_shot": 2, "few_shot_source": "nowhere"}, "few_shot_source='nowhere' does not exist"),
        ({"k_shot": 0, "few_shot_source": "."}, r"few_shot_source='\.', but k_shot=0"),
        ({"aggregation": "mean"}, "aggregation='mean' is unknown"),
    ],
)
def test_wrong_arguments_are_refused_before_any_weights_are_loaded(arguments, culprit, workspace, monkeypatch):
    monkeypatch.setattr("dual_image_clip.lightning_model.load_backbone", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=culprit):
        make_model(**arguments)
