from pathlib import Path

import pytest
from anomalib.data import Folder

from dual_image_clip.hooks.evaluation import evaluated_image_paths, evaluation_datasets, require_masks
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


@pytest.mark.parametrize(
    ("images", "masks", "faults"),
    [
        (["1", "10", "2"], ["1", "10", "2"], []),
        (["1", "10", "2"], ["10_mask", "2_mask"], ["bad/1.png has no mask"]),
        (["1", "10", "2"], ["1_mask", "2_mask"], ["bad/10.png has no mask"]),
        (["1", "2"], ["mask_of_2", "3"], ["bad/1.png has no mask", "masks/3.png belongs to no image"]),
        (
            [str(each) for each in range(10)],
            ["0"],
            [*(f"bad/{each}.png has no mask" for each in range(1, 6)), "and 4 more"],
        ),
    ],
)
def test_masks_and_images_that_do_not_belong_together_are_named(images, masks, faults, tmp_path):
    for folder, names in (("good", ["0"]), ("bad", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "masks" / "notes.txt").touch()
    data = Folder(name="plates", root=tmp_path, normal_dir="good", abnormal_dir="bad", mask_dir="masks")
    if not faults:
        require_masks(data)
        return
    with pytest.raises(ValueError, match="each defective image needs one mask") as raised:
        require_masks(data)
    assert all(each in str(raised.value) for each in faults)
    assert str(raised.value).count(".png") == sum(".png" in each for each in faults)


def test_a_datamodule_without_masks_needs_none():
    for data in (None, object(), Folder(name="plates", normal_dir="good", abnormal_dir="bad")):
        require_masks(data)
