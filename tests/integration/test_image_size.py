"""Other resolutions than the backbone's own, at every entrance, against a tower that open_clip itself has resized."""

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from open_clip.model import resize_pos_embed
from safetensors.torch import load_file, save_file
from torch import Tensor

from dual_image_clip import DualImageCLIP, ui
from dual_image_clip.cli import WRONG_ARGUMENTS, main
from dual_image_clip.method import DualPathEncoder
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.ui.scorer import Scorer
from dual_image_clip.weights import EMBEDDED, EMBEDDED_WEIGHTS
from tests.drawn_data import draw_plate, make_photos, save
from tests.helpers import (
    TINY,
    TINY_CONFIG,
    add_noise,
    assert_same,
    cloudy_images,
    make_data,
    make_engine,
    make_model,
    predict,
)
from tests.integration.commands import rows_of

OWN_SIZE, SIZE, LARGER = 64, 96, "tiny-vit-96"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Random weights of the tiny tower, and an architecture of :data:`SIZE` that they fit once they are resized."""
    folder = tmp_path_factory.mktemp("larger")
    config = copy.deepcopy(TINY_CONFIG)
    config["vision_cfg"]["image_size"] = SIZE
    (folder / f"{LARGER}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    clip = open_clip.create_model(TINY)
    add_noise(clip)
    save_file(clip.state_dict(), folder / "tiny.safetensors")
    return str(folder / "tiny.safetensors")


@pytest.fixture
def golden(workspace) -> Path:
    return make_photos(workspace / "golden", normal=3, defective=0)


@pytest.fixture
def photos(workspace) -> Path:
    """Square photos and oblong ones, which are cut into tiles."""
    folder = make_photos(workspace / "photos", normal=3)
    save(draw_plate(70, (100, 180), "spot")[0], folder / "wide.png")
    save(draw_plate(71, (150, 80))[0], folder / "tall.png")
    return folder


def detector(weights: str, image_size: int | None = None, backbone: str = TINY, **arguments) -> DualImageCLIP:
    settings = {"class_name": "plate", "temperature": 0.1, "learning_rate": 0.01, "visualizer": False}
    return DualImageCLIP(
        **{"backbone": backbone, "pretrained": weights, "image_size": image_size, **settings, **arguments}
    )


# The same as a tower of that size


@pytest.mark.open_clip
@pytest.mark.parametrize("size", [480, 128])
def test_tokens_are_those_of_open_clip_at_that_size(size):
    model = make_model(image_size=size)
    forced = open_clip.create_model(EMBEDDED, force_image_size=size).eval()
    state = {name: weight.float() for name, weight in load_file(EMBEDDED_WEIGHTS).items()}
    resize_pos_embed(state, forced)
    forced.load_state_dict(state)
    images = model.pre_process(cloudy_images(1, (300, 300)))
    assert images.shape == (1, 3, size, size)
    encoded = model.model.encode(images)
    with torch.no_grad():
        assert_same(encoded.class_tokens[:, 0], forced.encode_image(images, normalize=True))
    assert_same(encoded.patch_tokens, DualPathEncoder(forced.visual)(images).patch_tokens)


def test_a_folder_beside_golden_images(weights, golden, photos, tmp_path):
    def score(*arguments) -> dict:
        model = detector(weights, *arguments, k_shot=2, few_shot_source=golden)
        return predict(model, tmp_path, data_path=photos)

    found, expected, at_own_size = score(SIZE), score(None, LARGER), score(None)
    assert len(found) == 6
    for path, item in expected.items():
        assert_same(found[path], item, 1e-4)
        assert min(found[path].anomaly_map.shape[-2:]) == SIZE
        assert (found[path].pred_score - at_own_size[path].pred_score).abs() > 1e-3


def test_the_metrics_of_a_test(weights, mvtec, tmp_path):
    def figures(*arguments) -> dict[str, float]:
        model = detector(weights, *arguments)
        return make_engine(tmp_path).test(model=model, datamodule=make_data(mvtec), verbose=False)[0]

    found = figures(SIZE)
    assert found == pytest.approx(figures(None, LARGER), abs=1e-3)
    assert found != pytest.approx(figures(None), abs=1e-3)


def test_a_stream(weights, photos):
    found, expected = (
        StreamingDetector(detector(weights, *arguments), references=2) for arguments in ((SIZE,), (None, LARGER))
    )
    for path in sorted(photos.iterdir()):
        one, other = found(path), expected(path)
        assert_same((one.score, one.anomaly_map), (other.score, other.anomaly_map), 1e-4)


def test_the_page(weights, photos):
    def scores(*arguments) -> dict[str, float]:
        outcome = Scorer(detector(weights, *arguments))(sorted(photos.iterdir()), "plate", lambda *_: None)
        return {each.path: each.score for each in outcome.predictions}

    found = scores(SIZE)
    assert found == pytest.approx(scores(None, LARGER), abs=1e-4)
    assert found != pytest.approx(scores(None), abs=1e-3)


# Any size


@pytest.mark.parametrize("shape", [(120, 120), (50, 140), (140, 50)], ids=str)
@pytest.mark.parametrize("size", [16, 32, 80, 128])
def test_maps_of_any_size(weights, size, shape):
    model = detector(weights, size, num_references=2)
    model.set_class_name("plate")
    model.model.set_golden_images([model.pre_process(cloudy_images(1, (60, 90), seed=5))])
    images = model.pre_process(cloudy_images(3, shape))
    found = model.model(images)
    assert min(images.shape[-2:]) == size
    assert found.anomaly_map.shape == (3, *images.shape[-2:])
    assert found.anomaly_map.min() >= 0
    assert found.anomaly_map.max() <= model.model.weights.map_maximum
    assert 0 < found.pred_score.min() <= found.pred_score.max() <= model.model.weights.score_maximum


def test_the_backbones_own_size_changes_nothing(weights, golden, photos, tmp_path):
    settings = {"k_shot": 1, "few_shot_source": golden}
    given, default = (
        predict(detector(weights, size, **settings), tmp_path, data_path=photos) for size in (OWN_SIZE, None)
    )
    for path, item in default.items():
        assert_same(given[path], item, 0)


def spot_on_a_large_photo() -> tuple[Tensor, Tensor, tuple[int, int]]:
    """A plate of 960×960 pixels, another one with a spot of 40 pixels, and where that is."""
    good, spoilt = (torch.from_numpy(draw_plate(seed, (960, 960))[0].copy()).permute(2, 0, 1) / 255 for seed in (1, 2))
    y, x = 520, 410
    spoilt[:, y - 20 : y + 20, x - 20 : x + 20] = 0.1
    return good, spoilt, (y, x)


def test_a_small_defect_ends_sharper_at_a_higher_resolution():
    good, spoilt, (y, x) = spot_on_a_large_photo()

    def hot_area(image_size: int) -> int:
        """Pixels above half the height of the peak, which has to be at the defect."""
        stream = StreamingDetector(make_model(class_name="plate", image_size=image_size), references=1)
        stream(good)
        heat = stream(spoilt).anomaly_map
        hot = heat > (heat.max() + heat.median()) / 2
        rows, columns = hot.nonzero(as_tuple=True)
        assert abs(rows.float().mean() - y) < 40
        assert abs(columns.float().mean() - x) < 40
        return int(hot.sum())

    assert hot_area(480) < 0.5 * hot_area(240)


# Checkpoints


def test_a_checkpoint_keeps_it(weights, golden, photos, mvtec, tmp_path):
    model, engine = detector(weights, SIZE, k_shot=2, few_shot_source=golden), make_engine(tmp_path)
    engine.test(model=model, datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False)
    assert len(restored.model.golden_references) == 2 * (SIZE // 16) ** 2
    expected = predict(model, tmp_path, data_path=photos)
    for path, item in predict(restored, tmp_path, data_path=photos).items():
        assert_same(item, expected[path], 0)


@pytest.mark.parametrize("image_size", [OWN_SIZE, None], ids=str)
def test_a_checkpoint_of_another_resolution_is_refused(image_size, weights, photos, mvtec, tmp_path):
    engine = make_engine(tmp_path)
    engine.test(model=detector(weights, SIZE), datamodule=make_data(mvtec), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    refused = pytest.raises(ValueError, match="made at 96×96 pixels, but the model is to work at 64×64: set image_size")
    with refused:
        DualImageCLIP.load_from_checkpoint(tmp_path / "model.ckpt", image_size=image_size)
    with refused:
        predict(detector(weights, image_size), tmp_path, data_path=photos, ckpt_path=tmp_path / "model.ckpt")


# Commands


def test_both_commands_take_it(photos, workspace):
    own = ["--class-name", "plate", "--backbone", EMBEDDED, "--adaptation-steps", "0", "--image-size", str(SIZE)]
    assert main(["predict", str(photos), *own, "--output", "own"]) == 0
    model = {"class_name": "plate", "backbone": EMBEDDED, "adaptation_steps": 0, "image_size": SIZE}
    stock = [each for name, value in model.items() for each in (f"--model.{name}", str(value))]
    AnomalibCLI(["predict", "--model", "DualImageCLIP", *stock, "--data", str(photos)])
    expected = predict(make_model(**model), workspace / "other", data_path=photos)
    for folder in ("own", "results/DualImageCLIP/latest"):
        found = {Path(row["path"]).name: float(row["score"]) for row in rows_of(workspace / folder / "predictions.csv")}
        scores = {Path(path).name: float(item.pred_score) for path, item in expected.items()}
        # The file has six digits.
        assert found == pytest.approx(scores, abs=1e-6)


def test_the_pages_command_takes_it(monkeypatch):
    served = []
    for name in ("require_gradio", "require_free_port"):
        monkeypatch.setattr(ui, name, lambda *_: None)
    monkeypatch.setattr(ui, "serve", lambda model, *_: served.append(model))
    assert main(["ui", "--backbone", EMBEDDED, "--image-size", str(SIZE)]) == 0
    assert served[0].model.image_size == (SIZE, SIZE)


@pytest.mark.parametrize("command", ["predict", "ui"])
def test_a_wrong_one_is_told_in_one_line(command, photos, capsys, monkeypatch):
    for name in ("require_gradio", "require_free_port"):
        monkeypatch.setattr(ui, name, lambda *_: None)
    arguments = [str(photos), "--class-name", "plate", "--output", "out"] if command == "predict" else []
    assert main([command, *arguments, "--backbone", "ViT-L-14", "--image-size", "100"]) == WRONG_ARGUMENTS
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "image_size must be a whole multiple of 14, the patch size of ViT-L-14, got 100: set it to 98 or 112" in said
