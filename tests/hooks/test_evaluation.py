from pathlib import Path

import pytest

from dual_image_clip.hooks.evaluation import evaluated_image_paths, evaluation_datasets
from tests.hooks.runs import Listed, trainer_with


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_paths_of_the_stage_under_way_are_found(stage):
    first, second = Listed(["a.png"], "samples"), Listed([Path("b.png"), Path("c.png")], "image_filenames")
    assert evaluation_datasets(trainer_with(stage, first, second)) == [first, second]
    assert evaluated_image_paths(trainer_with(stage, first, second)) == ["a.png", "b.png", "c.png"]
    assert evaluated_image_paths(trainer_with(stage, second, as_list=False)) == ["b.png", "c.png"]


def test_no_data_sets_without_a_run():
    trainer = trainer_with("test", Listed(["a.png"], "samples"))
    trainer.state.fn = None
    assert evaluation_datasets(trainer) == []
