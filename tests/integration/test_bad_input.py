"""What a user can get wrong: each message names the culprit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import ImageBatch
from PIL import Image

from dual_image_clip import DualImageCLIP
from dual_image_clip.photos import UnusableImageError
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import draw_plate, make_photos, save
from tests.helpers import assert_same, make_data, make_engine, make_model, predict
from tests.integration.commands import rows_of


def score(photos: Path, folder: Path, **arguments) -> dict[str, ImageBatch]:
    return predict(make_model(**arguments), folder, data_path=photos)


def truncated(photos: Path) -> None:
    path = save(draw_plate(77)[0], photos / "broken.jpg")
    path.write_bytes(path.read_bytes()[:1500])


def not_an_image(photos: Path) -> None:
    (photos / "broken.png").write_text("not an image")


def empty_file(photos: Path) -> None:
    (photos / "broken.png").touch()


@pytest.mark.parametrize("spoil", [truncated, not_an_image, empty_file])
def test_unreadable_images_of_a_folder_are_named_and_passed_over(spoil, photos, tmp_path, caplog):
    before = score(photos, tmp_path)
    spoil(photos)
    broken = next(photos.glob("broken.*"))
    # Before all photos, where the first of them looks ahead, and between two of them.
    for path in (broken.with_stem("a_broken"), broken.with_stem("q_broken")):
        broken = broken.rename(path)
        caplog.clear()
        after = score(photos, tmp_path)
        assert list(after) == list(before)
        assert all(after[name].pred_score == item.pred_score for name, item in before.items())
        assert "1 file(s) could not be used" in caplog.text
        assert path.name in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_images_are_named_in_a_test_run(num_workers, mvtec, tmp_path):
    truncated(mvtec / "bottle" / "test" / "good")
    (mvtec / "bottle" / "test" / "good" / "broken.jpg").rename(mvtec / "bottle" / "test" / "good" / "broken.png")
    with pytest.raises(UnusableImageError, match=r"broken\.png cannot be read as an image"):
        make_engine(tmp_path).test(model=make_model(), datamodule=make_data(mvtec, num_workers=num_workers))


def test_an_empty_folder_is_named(workspace, tmp_path):
    (workspace / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"Found 0 images in .*nothing"):
        score(workspace / "nothing", tmp_path)


def test_formats_that_anomalib_does_not_list_are_seen_above_those_that_it_does(workspace, tmp_path):
    folder = make_photos(workspace / "photos" / "below", normal=2, defective=0).parent
    save(draw_plate(7)[0], folder / "above.gif")
    assert {Path(name).name for name in score(folder, tmp_path)} == {"above.gif", "plate_000.png", "plate_001.png"}
    # A single file is asked for with all of its pages, and with nothing beside it.
    pages = [Image.fromarray(draw_plate(seed)[0]) for seed in range(2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    found = score(folder / "pages.tif", tmp_path)
    assert [Path(name).name for name in found] == ["pages.tif", "pages.tif#2"]


def test_a_link_to_nothing_is_named_in_a_test_run(mvtec, tmp_path):
    (mvtec / "bottle" / "test" / "good" / "gone.png").symlink_to("nowhere.png")
    not_an_image(mvtec / "bottle" / "test" / "good")
    with pytest.raises(UnusableImageError, match=r"^2 image file\(s\) cannot be used") as caught:
        make_engine(tmp_path).test(model=make_model(), datamodule=make_data(mvtec))
    assert "gone.png is a link to a file that is not there" in str(caught.value)
    assert "broken.png cannot be read as an image" in str(caught.value)


def test_an_image_smaller_than_a_patch_is_named_and_passed_over(photos, tmp_path, caplog):
    before = score(photos, tmp_path)
    # The first file that the first photo would be compared with.
    save(np.zeros((8, 40, 3), dtype=np.uint8), photos / "a_speck.png")
    after = score(photos, tmp_path)
    assert list(after) == list(before)
    assert all(after[name].pred_score == item.pred_score for name, item in before.items())
    assert re.search(r"a_speck.png: has 8×40 pixels, less than one 16×16 patch", caplog.text)


def test_an_image_smaller_than_a_patch_is_named_in_a_test_run(mvtec, tmp_path):
    save(np.zeros((8, 40, 3), dtype=np.uint8), mvtec / "bottle" / "test" / "good" / "speck.png")
    with pytest.raises(ValueError, match=r"speck.png has 8×40 pixels, less than one 16×16 patch"):
        make_engine(tmp_path).test(model=make_model(), datamodule=make_data(mvtec))


def test_any_kind_of_image_is_accepted(workspace, tmp_path):
    folder = make_photos(workspace / "mixed", normal=2, defective=0)
    for mode in ("L", "RGBA", "P", "CMYK", "1"):
        suffix = "tif" if mode == "CMYK" else "png"
        Image.fromarray(draw_plate(9)[0]).convert(mode).save(folder / f"{mode}.{suffix}")
    items = score(folder, tmp_path)
    assert len(items) == 2 + 5
    assert all(torch.isfinite(item.anomaly_map).all() for item in items.values())


def test_a_sixteen_bit_image_scores_like_its_eight_bit_twin(workspace, tmp_path):
    folder = make_photos(workspace / "grey", normal=3, defective=0)
    grey = draw_plate(9)[0][..., 0]
    save(np.stack([grey] * 3, axis=-1), folder / "x8.png")
    eight = score(folder, tmp_path, adaptation_steps=0)[str(folder / "x8.png")]
    (folder / "x8.png").unlink()
    save(grey.astype(np.uint16) * 257, folder / "x16.png")
    sixteen = score(folder, tmp_path, adaptation_steps=0)[str(folder / "x16.png")]
    assert_same(sixteen.pred_score, eight.pred_score, 1e-3)


def test_a_single_image_is_scored_by_text_with_one_warning(photos, tmp_path, caplog):
    (item,) = score(next(photos.glob("spoilt*")), tmp_path).values()
    assert torch.isfinite(item.pred_score)
    assert not item.pred_label
    assert caplog.text.count("scored by text alone") == 1


def test_identical_images_are_all_normal(workspace, tmp_path):
    folder = workspace / "same"
    for index in range(10):
        save(draw_plate(1)[0], folder / f"{index}.png")
    # Every image gets a pseudo anomaly of its own, so adapted scores of the same image differ.
    items = score(folder, tmp_path, adaptation_steps=0).values()
    assert not any(bool(item.pred_label) for item in items)
    assert all(torch.isfinite(item.pred_score) for item in items)


def test_too_many_references_are_refused_before_anything_is_scored(photos, tmp_path):
    with pytest.raises(ValueError, match=r"num_references=50, but there are 11 images"):
        score(photos, tmp_path, num_references=50)


@pytest.mark.open_clip
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"class_name": "123"}, "class_name '123' has no letters"),
        ({"class_name": ""}, "class_name '' has no letters"),
        ({"num_references": -1}, "num_references must be at least 0"),
        ({"adaptation_steps": -1}, "adaptation_steps must be at least 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"lambda_4": -1.0}, "lambda_4 must be at least 0"),
        ({"beta": float("nan")}, "beta must be at least 0"),
        ({"lambda_1": 0.0, "lambda_2": 0.0}, "lambda_1 and lambda_2"),
        ({"threshold": 1.5}, "threshold must lie in 0..1"),
        ({"backbone": "ViT-B-17"}, "backbone='ViT-B-17' is not an open_clip model"),
        ({"backbone": "RN50", "pretrained": None}, "unsupported image tower: it is a ModifiedResNet"),
        ({"backbone": "ViT-B-16-SigLIP", "pretrained": None}, "unsupported image tower"),
        ({"backbone": "ViT-B-32", "pretrained": "no_such_tag"}, "pretrained='no_such_tag' is neither a file nor a tag"),
        ({"pretrained": "missing.safetensors"}, "missing.safetensors"),
        ({"texture_dir": "no_such_folder"}, "no_such_folder"),
    ],
)
def test_wrong_arguments(arguments, culprit, workspace):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=culprit):
        DualImageCLIP(**{"backbone": EMBEDDED, **arguments} if "pretrained" not in arguments else arguments)


def test_a_link_to_nothing_and_a_folder_named_like_a_photo_do_not_end_the_stock_command(photos, workspace):
    (photos / "gone.png").symlink_to("nowhere.png")
    save(draw_plate(7)[0], photos / "folder.png" / "inside.gif")
    settings = ["--model", "DualImageCLIP", "--model.backbone", EMBEDDED, "--model.adaptation_steps", "0"]
    AnomalibCLI(["predict", *settings, "--data", str(photos)])
    results = Path("results", "DualImageCLIP", "latest")
    assert len(rows_of(results / "predictions.csv")) == 12
    assert "gone.png</td><td>is a link to a file that is not there" in (results / "report.html").read_text()


def test_a_folder_without_photos_ends_the_stock_command(workspace):
    (workspace / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no photos in .*nothing"):
        AnomalibCLI(["predict", "--model", "DualImageCLIP", "--model.backbone", EMBEDDED, "--data", "nothing"])
