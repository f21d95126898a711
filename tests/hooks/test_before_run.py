import copy

import pytest
from anomalib.data import MVTecAD
from lightning import Trainer

from dual_image_clip.hooks.before_run import make_latest, require_lasting_processes
from tests.helpers import make_engine, refusal, tiny_model


def test_a_category_is_refused_before_it_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(MVTecAD, "prepare_data", lambda _: pytest.fail("began a download"))
    data = MVTecAD(root=tmp_path, category="botle")
    with pytest.raises(ValueError, match=r"did you mean bottle\?"):
        make_engine(tmp_path / "results").test(model=tiny_model(), datamodule=data)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_spawn_find_unused_parameters_true"])
def test_a_strategy_that_spawns_is_refused_by_name(strategy):
    with pytest.raises(ValueError, match=r'set strategy to "ddp"'):
        require_lasting_processes(strategy)


@pytest.mark.parametrize("strategy", ["ddp", "auto", None, object()])
def test_other_strategies_are_not(strategy):
    assert refusal(require_lasting_processes, strategy) is None


@pytest.mark.parametrize("run", [Trainer.validate, Trainer.test, Trainer.predict])
def test_a_model_is_not_sent_to_processes_that_end_with_what_they_found(run, tmp_path):
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False)
    with pytest.raises(ValueError, match=r'strategy "ddp_spawn" .* set strategy to "ddp"'):
        run(trainer, tiny_model(), [])


def test_a_model_is_copied_as_ever():
    assert copy.deepcopy(tiny_model(class_name="nut")).class_name == "nut"


def test_a_missing_latest_becomes_a_link_to_a_version(tmp_path):
    make_latest(tmp_path / "x" / "latest")
    assert (tmp_path / "x" / "latest").resolve() == tmp_path / "x" / "v0"
    (tmp_path / "x" / "latest" / "result").touch()
    make_latest(tmp_path / "x" / "latest")
    assert [path.name for path in (tmp_path / "x" / "v0").iterdir()] == ["result"]


@pytest.mark.parametrize("name", ["v3", "photos"])
def test_other_folders_are_left_to_those_who_write_there(name, tmp_path):
    make_latest(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_plain_latest_stays(tmp_path):
    (tmp_path / "latest").mkdir()
    make_latest(tmp_path / "latest")
    assert not (tmp_path / "latest").is_symlink()
