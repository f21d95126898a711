import doctest
import inspect
from pathlib import Path

import pytest
import yaml

from dual_image_clip import BEST, DualImageCLIP, cli, commands, presets
from dual_image_clip.weights import EMBEDDED
from tests.drawn_data import make_photos
from tests.helpers import make_model
from tests.integration.commands import rows_of

CONFIGS = Path(__file__).parents[2] / "configs"
DEFAULTS = {name: each.default for name, each in inspect.signature(DualImageCLIP).parameters.items()}


def test_example_runs():
    result = doctest.testmod(presets)
    assert result.attempted
    assert not result.failed


def test_config_has_the_same_settings():
    config = yaml.safe_load((CONFIGS / "best.yaml").read_text(encoding="utf-8"))
    assert config["model"] == {"class_path": "DualImageCLIP", "init_args": BEST}


def test_every_setting_is_another_than_the_papers():
    assert all(DEFAULTS[name] != value for name, value in BEST.items())


def test_model_takes_it():
    model = make_model(**BEST).model
    assert model.references.num_references == 8
    assert model.aggregation == "lowest_third"
    assert (model.weights.peak_share, model.weights.lambda_2) == (0.02, 1)
    assert not model.adaptation.steps


@pytest.fixture
def loaded(monkeypatch):
    """The models that the command has made."""
    models = []
    load = commands.predict.load_model

    def keep(*arguments, **settings):
        models.append(load(*arguments, **settings))
        return models[-1]

    monkeypatch.setattr(commands.predict, "load_model", keep)
    return models


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--best"], BEST),
        (["--best", "--num-references", "3"], {**BEST, "num_references": 3}),
        (["--best", "--adaptation-steps", "1"], {**BEST, "adaptation_steps": 1}),
    ],
)
def test_command_takes_it_and_what_stands_beside_it(options, expected, loaded, workspace):
    photos = make_photos(workspace / "photos", normal=9, defective=1)
    typed = ["predict", str(photos), "--class-name", "plate", "--backbone", EMBEDDED, "--output", "found", *options]
    assert cli.main(typed) == 0
    (model,) = loaded
    chosen = {name: model.hparams[name] for name in BEST}
    assert chosen == {**{name: DEFAULTS[name] for name in BEST}, **expected}
    found = rows_of(workspace / "found" / "predictions.csv")
    assert Path(found[0]["path"]).name == "spoilt_000.png"
    references = {row["num_references"] for row in found}
    assert str(chosen["num_references"]) in references


@pytest.mark.parametrize(("num_photos", "num_references"), [(1, 1), (2, 1), (4, 3)])
def test_few_photos_are_compared_with_all_others(num_photos, num_references, loaded, workspace):
    photos = make_photos(workspace / "photos", normal=num_photos - 1, defective=1)
    typed = ["predict", str(photos), "--class-name", "plate", "--backbone", EMBEDDED, "--best"]
    assert cli.main(typed) == 0
    assert loaded[0].hparams["num_references"] == num_references
