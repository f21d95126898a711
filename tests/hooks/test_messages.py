"""What libraries say is kept back where it is wrong, and only while this model runs."""

import logging
import warnings
from pathlib import Path

import pytest
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from dual_image_clip.hooks import PhotoProgressBar
from tests.drawn_data import make_photos
from tests.helpers import tiny_model

WRONG = "ckpt_path is not provided"
POINTLESS = "Total length of `list` across ranks is zero"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", normal=3)


def predict(model, folder: Path, photos: object) -> None:
    Engine(default_root_dir=folder, accelerator="cpu").predict(model=model, data_path=photos)


def test_a_run_says_nothing_wrong_and_all_is_heard_afterwards(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        predict(tiny_model(), tmp_path, photos)
        with pytest.raises(ValueError, match="num_references=50"):
            predict(tiny_model(num_references=50), tmp_path, photos)
        assert warnings.filters == filters
    assert not any(POINTLESS in str(each.message) for each in heard)
    assert WRONG not in caplog.text
    assert "Initializing DualImageCLIP" not in caplog.text


def test_other_models_are_heard(tmp_path, caplog):
    tiny_model()
    # Whatever a command, which quietens anomalib, has left behind in this process.
    caplog.set_level(logging.INFO, logger="anomalib")
    with pytest.raises(FileNotFoundError):
        predict(Padim(pre_trained=False), tmp_path, "nowhere")
    assert "Initializing Padim" in caplog.text
    assert WRONG in caplog.text


def bar_of(model, *callbacks, **arguments):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[*callbacks], **arguments)
    trainer.strategy.connect(model)
    model.trainer = trainer
    trainer._callback_connector._attach_model_callbacks()
    return trainer.progress_bar_callback


def test_the_bar_takes_the_place_of_lightnings_own(tmp_path):
    theme = RichProgressBarTheme(description="green")
    bar = bar_of(tiny_model(), RichProgressBar(refresh_rate=7, theme=theme), default_root_dir=tmp_path)
    assert isinstance(bar, PhotoProgressBar)
    assert (bar.refresh_rate, bar.theme) == (7, theme)


def test_another_bar_and_none_stay(tmp_path):
    chosen = TQDMProgressBar()
    assert bar_of(tiny_model(), chosen, default_root_dir=tmp_path) is chosen
    assert bar_of(tiny_model(), enable_progress_bar=False, default_root_dir=tmp_path) is None


def test_the_bar_leaves_standard_output_alone(photos, tmp_path, capfd):
    predict(tiny_model(), tmp_path, photos)
    said = capfd.readouterr()
    assert said.out == ""
    assert "4/4" in said.err
