"""Whatever lies in a folder, every entrance scores the same pictures and names all others, and no file is touched."""

import html
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from anomalib.data import Folder
from hypothesis import HealthCheck, given, settings
from PIL import Image
from safetensors.torch import save_file

from dual_image_clip.cli import FAILED, WRONG_ARGUMENTS, main
from dual_image_clip.hooks import GoldenImageError
from dual_image_clip.photos import RECORD_NAME, UnusableImageError, find_photos
from dual_image_clip.prediction import printable
from dual_image_clip.streaming import StreamingDetector
from dual_image_clip.ui.scorer import Scorer
from tests.drawn_data import make_photos
from tests.helpers import TINY, make_engine, tiny_model
from tests.integration.commands import rows_of
from tests.photos.generated import bytes_below, folders, write_folder
from tests.photos.test_generated_pictures import read_all

FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
OPTIONS = ["--class-name", "plate", "--backbone", TINY, "--adaptation-steps", "0", "--output", "out", "--save-maps"]
# What anomalib itself lists of a folder.
STOCK = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(dict(tiny_model().backbone.clip.state_dict()), path)
    return path


@contextmanager
def written(contents):
    """A folder of files, and at the end a look at whether they are as they were."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        folder = Path(scratch).resolve() / "photos"
        write_folder(folder, contents)
        before = bytes_below(folder)
        try:
            yield folder
            assert before.items() <= bytes_below(folder).items()
        finally:
            os.chdir(here)


def plain_model(**arguments):
    return tiny_model(class_name="plate", adaptation_steps=0, **arguments)


def error_of(run: Callable[[], object]) -> Exception | None:
    try:
        run()
    except (ValueError, OSError) as error:
        return error
    return None


def listed_in(report: Path) -> list[tuple[str, str]]:
    text = report.read_bytes().decode().partition('id="unusable"')[2].partition("</table>")[0]
    rows = re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", text, re.DOTALL)
    return [(html.unescape(name), html.unescape(reason)) for name, reason in rows]


def require_results(output: Path, read: dict, unusable: list) -> None:
    """List, report and heatmaps hold each picture once, and nothing else."""
    rows = rows_of(output / "predictions.csv")
    assert sorted(row["path"] for row in rows) == sorted(map(printable, read))
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    root = os.path.commonpath([Path(name).parent for name in (*read, *(file.path for file in unusable))])
    expected = [(printable(os.path.relpath(file.path, root)), printable(file.reason)) for file in unusable]
    assert sorted(listed_in(output / "report.html")) == sorted(expected)
    heatmaps = {row["heatmap"] for row in rows}
    assert len(heatmaps) == len(rows)
    drawn = [
        path for path in (output / "images").rglob("*") if path.is_file() and not path.name.startswith(RECORD_NAME[:16])
    ]
    assert {printable(path.relative_to(output).as_posix()) for path in drawn} == heatmaps
    for path in drawn:
        with Image.open(path) as picture:
            picture.load()


@FEW
@given(folders())
def test_the_command(weights, contents):
    with written(contents) as folder:
        read, unusable = read_all(folder)
        code = main(["predict", str(folder), "--pretrained", str(weights), *OPTIONS])
        if not find_photos(folder).photos:
            assert code == WRONG_ARGUMENTS
            return
        assert code == (0 if read else FAILED)
        require_results(Path("out"), read, unusable)


@FEW
@given(folders())
def test_the_engine_and_the_stock_command(contents):
    with written(contents) as folder:
        read, unusable = read_all(folder)
        error = error_of(lambda: make_engine(Path("out")).predict(model=plain_model(), data_path=folder))
        if error is None:
            require_results(Path("out/DualImageCLIP/latest"), read, unusable)
        else:
            # anomalib's own listing ends at a link to nothing, whose name it tells.
            assert re.search("^no photos in|^Found 0 images in|^File not found: ", str(error))


@FEW
@given(folders())
def test_a_test_ends_with_the_names_of_what_cannot_be_used(contents):
    with written(contents) as folder:
        make_photos(folder, normal=2, defective=0)
        _, unusable = read_all(folder)
        bad = make_photos(folder.parent / "bad", normal=1, defective=2)
        data = Folder(
            name="plates",
            root=folder.parent,
            normal_dir=bad,
            normal_test_dir=folder,
            abnormal_dir=bad,
            val_split_mode="none",
            num_workers=0,
            eval_batch_size=2,
        )
        expected = {file.path for file in unusable if Path(file.path).suffix.lower() in STOCK}
        error = error_of(lambda: make_engine(Path("out")).test(model=plain_model(), datamodule=data))
        if expected:
            assert isinstance(error, UnusableImageError)
            assert f"{len(expected)} image file(s) cannot be used" in str(error)
            assert sum(f"\n  {name} " in str(error) for name in expected) == min(5, len(expected))
        else:
            assert error is None


@FEW
@given(folders())
def test_golden_samples_a_stream_and_the_page(contents):
    with written(contents) as folder:
        read, unusable = read_all(folder)
        detector = StreamingDetector(plain_model())
        assert all(0 <= detector(name).score <= 1 for name in read)
        for file in unusable:
            assert isinstance(error_of(partial(detector, file.path)), UnusableImageError), file
        paths = [path for path in map(Path, sorted(map(str, folder.rglob("*")))) if path.is_file()]
        outcome = Scorer(plain_model())(paths, "plate", lambda *_: None)
        assert len(outcome.predictions) == len(read)
        names = [each.path for each in outcome.predictions] + [each.path for each in outcome.unusable]
        assert len(names) == len(set(names))
        if read:
            model = plain_model(k_shot=len(read), few_shot_source=folder)
            model.load_golden_images()
            assert set(model.golden.encoded) == set(read)
        too_many = partial(plain_model, k_shot=len(read) + 1, few_shot_source=folder)
        assert isinstance(error_of(lambda: too_many().load_golden_images()), GoldenImageError)
