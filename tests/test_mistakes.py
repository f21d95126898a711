"""A mistake in anomalib's command is told in one line; what is no mistake of the user's keeps its traceback."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from anomalib.cli.cli import AnomalibCLI

from dual_image_clip.class_names import require_class_name
from dual_image_clip.mistakes import DEBUG, run
from tests.drawn_data import make_category, make_photos
from tests.helpers import TINY

MODEL = ["--model", "DualImageCLIP", "--model.backbone", TINY, "--model.pretrained", "null"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
HINT = f" ({DEBUG}=1 shows where)"


def anomalib(*arguments: object) -> Callable[[], object]:
    return partial(AnomalibCLI, [str(each) for each in arguments])


def told(main: Callable) -> str:
    with pytest.raises(SystemExit) as end:
        run(main)
    line = str(end.value.code)
    assert line.startswith("anomalib: error: ")
    assert line.endswith(HINT)
    assert "\n" not in line
    return line.removeprefix("anomalib: error: ").removesuffix(HINT)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_photos(tmp_path / "photos", normal=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.num_references", "-1"], "num_references must be at least 0, got -1"),
        (
            ["--model.image_size", "100"],
            "image_size must be a whole multiple of 16, the patch size of tiny-vit, got 100",
        ),
        (["--model.pretrained", "gone.safetensors"], "pretrained='gone.safetensors' is neither a file nor a tag"),
        (["--model.backbone", "ViT-9"], "backbone='ViT-9' is not an open_clip model"),
        (
            ["--model.k_shot", "9", "--model.few_shot_source", "photos"],
            "k_shot=9, but few_shot_source='photos' has 4 good",
        ),
        (["--model.num_references", "50"], "num_references=50, but there are 4 images"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_with_this_model(arguments, message, photos):
    assert message in told(anomalib("predict", *MODEL, "--data", photos, *QUIET, *arguments))


def test_a_test_image_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_category(tmp_path / "bottle", normal=3, defective=1)
    (tmp_path / "bottle" / "test" / "good" / "001.png").write_text("not an image")
    data = ["--data", "MVTecAD", "--data.root", tmp_path, "--data.num_workers", "0"]
    assert "good/001.png cannot be read as an image" in told(anomalib("test", *MODEL, *data, *QUIET))


def test_a_folder_of_results_with_other_files(photos):
    heatmap = Path("results/DualImageCLIP/latest/images/plate_000.png")
    heatmap.parent.mkdir(parents=True)
    heatmap.write_text("somebody's own")
    assert "plate_000.png is there already" in told(anomalib("predict", *MODEL, "--data", photos, *QUIET))


def test_the_traceback_can_be_had(photos, monkeypatch):
    monkeypatch.setenv(DEBUG, "1")
    with pytest.raises(ValueError, match="num_references=50"):
        run(anomalib("predict", *MODEL, "--data", photos, *QUIET, "--model.num_references", "50"))


def test_other_models_keep_their_tracebacks(photos):
    padim = ["--model", "Padim", "--model.pre_trained", "false"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(anomalib("predict", *padim, "--data", "nowhere", *QUIET))


def test_what_is_raised_on_purpose_is_a_mistake_and_what_happens_is_not():
    assert "has no letters" in told(partial(require_class_name, "12"))
    with pytest.raises(TypeError):
        run(partial(require_class_name, 12))
