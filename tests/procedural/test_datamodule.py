"""The datamodule: layout on disk, repeatability, interruption, and a batch."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image

from dual_image_clip.procedural import FAMILIES, Category, Procedural
from dual_image_clip.procedural import datamodule as module

COUNTS = {"num_train": 3, "num_test_normal": 2, "num_test_anomalous": 4}


def _procedural(root: Path, **changes) -> Procedural:
    arguments = {"category": "gear", "image_size": 64, "num_workers": 0, "eval_batch_size": 8, **COUNTS, **changes}
    return Procedural(root=root, **arguments)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Procedural:
    datamodule = _procedural(tmp_path_factory.mktemp("procedural"))
    datamodule.prepare_data()
    return datamodule


def test_layout_is_that_of_mvtec(drawn):
    root = drawn.folder / "gear"
    assert sorted(path.name for path in root.iterdir()) == ["ground_truth", "test", "train"]
    assert len(list((root / "train" / "good").glob("*.png"))) == 3
    assert len(list((root / "test" / "good").glob("*.png"))) == 2
    defects = {path.name for path in (root / "test").iterdir()} - {"good"}
    assert defects == {path.name for path in (root / "ground_truth").iterdir()}
    assert defects <= set(FAMILIES["gear"].defects())
    for defect in defects:
        for image in (root / "test" / defect).iterdir():
            mask = read_image(root / "ground_truth" / defect / f"{image.stem}_mask.png")
            assert set(np.unique(mask)) == {0.0, 1.0}


def test_same_settings_same_bytes_other_seed_other_bytes(drawn, tmp_path):
    again, other = _procedural(tmp_path), _procedural(tmp_path, seed=1)
    again.prepare_data()
    other.prepare_data()
    assert again.folder.name == drawn.folder.name
    assert _files(again.folder) == _files(drawn.folder)
    assert other.folder != again.folder
    assert not set(_files(other.folder).values()) & set(_files(again.folder).values())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"category": "nut"},
        {"image_size": 65},
        {"num_train": 4},
        {"num_test_normal": 3},
        {"num_test_anomalous": 5},
    ],
)
def test_every_setting_has_its_own_folder(tmp_path, change):
    assert _procedural(tmp_path, **change).folder != _procedural(tmp_path).folder


def test_another_renderer_has_its_own_folder(tmp_path, monkeypatch):
    before = _procedural(tmp_path).folder
    monkeypatch.setattr(module, "RENDERER_VERSION", module.RENDERER_VERSION + 1)
    assert _procedural(tmp_path).folder != before


def test_a_batch_has_images_labels_and_masks(drawn):
    drawn.setup()
    batch = next(iter(drawn.test_dataloader()))
    assert batch.image.shape == (6, 3, 64, 64)
    assert batch.gt_mask.shape == (6, 64, 64)
    has_mask = batch.gt_mask.flatten(1).any(dim=1)
    torch.testing.assert_close(has_mask, batch.gt_label.bool())
    assert has_mask.sum() == 4
    assert len(drawn.train_data) == 3


def test_it_is_drawn_once(drawn, monkeypatch):
    monkeypatch.setattr(module, "write_dataset", lambda *_, **__: pytest.fail("drawn again"))
    drawn.prepare_data()


def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    datamodule = _procedural(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Category, "anomalous", interrupt)
        with pytest.raises(KeyboardInterrupt):
            datamodule.prepare_data()
    assert list(tmp_path.iterdir()) == []
    datamodule.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [datamodule.folder.name]


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    datamodule = _procedural(tmp_path)
    write = module.write_dataset

    def overtaken(*arguments, **counts):
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_dataset", write)
            _procedural(tmp_path).prepare_data()
        write(*arguments, **counts)

    monkeypatch.setattr(module, "write_dataset", overtaken)
    datamodule.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == [datamodule.folder.name]


def test_the_default_root_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Procedural().root == tmp_path / "dual-image-clip" / "procedural"


def test_unknown_category_lists_all_names(tmp_path):
    with pytest.raises(ValueError, match="unknown category 'gera'") as error:
        _procedural(tmp_path, category="gera")
    assert all(name in str(error.value) for name in FAMILIES)


@pytest.mark.parametrize("name", [*COUNTS, "image_size"])
def test_too_small_a_number_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(name)):
        _procedural(tmp_path, **{name: 0})


def test_images_and_masks_match_where_numbers_grow_longer():
    numbers = [module._number(index, 1200) for index in (0, 100, 1000)]
    images, masks = [f"{number}.png" for number in numbers], [f"{number}_mask.png" for number in numbers]
    assert sorted(images) == images
    assert sorted(masks) == masks


def test_anomalib_knows_it_by_its_name():
    import anomalib.data

    from dual_image_clip.plugin import install

    install()
    assert anomalib.data.Procedural is Procedural
