"""What becomes of files that cannot be used; whole runs are in tests/integration/test_bad_input.py."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from anomalib.data import Folder
from torch.utils.data import DataLoader

from dual_image_clip.hooks import PhotoFolder
from dual_image_clip.hooks.unusable_files import UnusableFiles
from dual_image_clip.photos import PhotoReader, UnusableImageError
from tests.drawn_data import draw_plate, make_photos, save


def batches(dataset, stage: str, batch_size: int = 2, **options):
    policy = UnusableFiles(PhotoReader((16, 16)))
    policy.setup(SimpleNamespace(strategy=SimpleNamespace(process_dataloader=None)), SimpleNamespace(), stage)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate_fn, **options)
    return policy, policy.changed(loader)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = make_photos(tmp_path / "photos", normal=4, defective=0)
    (folder / "a_broken.png").write_text("no image")
    save(np.zeros((8, 40, 3), np.uint8), folder / "b_speck.png")
    return folder


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_prediction_lists_them_and_goes_on(photos, num_workers):
    policy, changed = batches(PhotoFolder(photos), "predict", num_workers=num_workers)
    seen = [Path(path).name for batch in changed for path in batch.image_path]
    assert seen == [f"plate_00{index}.png" for index in range(4)]
    reasons = {Path(each.path).name: each.reason for each in policy.passed_over}
    assert list(reasons) == ["a_broken.png", "b_speck.png"]
    assert reasons["b_speck.png"] == "has 8×40 pixels, less than one 16×16 patch"


def labelled(root: Path, broken: int) -> object:
    for index in range(4):
        save(draw_plate(index)[0], root / "good" / f"{index}.png")
        save(draw_plate(50 + index, defect="spot")[0], root / "bad" / f"{index}.png")
    for index in range(broken):
        (root / "good" / f"broken_{index}.png").write_text("no image")
    folders = {"normal_dir": "bad", "normal_test_dir": "good", "abnormal_dir": "bad"}
    data = Folder(name="plates", root=root, **folders, val_split_mode="none")
    data.setup()
    return data.test_data


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize(("broken", "named", "more"), [(1, 1, ""), (8, 5, "and 3 more")])
def test_a_test_ends_with_all_of_their_names(tmp_path, stage, broken, named, more):
    _, changed = batches(labelled(tmp_path, broken), stage)
    with pytest.raises(UnusableImageError, match=rf"^{broken} image file\(s\) cannot be used") as caught:
        list(changed)
    assert str(caught.value).count("broken_") == named
    assert more in str(caught.value)


def test_a_test_reads_what_the_stock_reader_spoils(tmp_path):
    dataset = labelled(tmp_path, broken=0)
    values = np.linspace(0, 65535, 120 * 120).astype(np.uint16).reshape(120, 120)
    save(values, Path(dataset.samples.iloc[0].image_path))
    _, changed = batches(dataset, "test", batch_size=1)
    first = next(iter(changed))
    assert first.image.std() > 0.2
    assert first.image.mean() == pytest.approx(0.5, abs=0.01)


def test_a_test_says_which_formats_are_left_out(tmp_path, caplog):
    dataset = labelled(tmp_path, broken=0)
    batches(dataset, "test")
    assert "left out" not in caplog.text
    for name in ("b.avif", "a.gif"):
        save(draw_plate(9)[0], tmp_path / "good" / name)
    batches(dataset, "test")
    assert "2 photo(s) of formats that anomalib does not list are left out of the test, the first:" in caplog.text
    assert caplog.text.rstrip().endswith("a.gif")


def test_other_loaders_are_left_alone():
    policy = UnusableFiles(PhotoReader())
    loader = DataLoader([1, 2, 3])
    assert policy.changed(loader) is loader
    assert policy.changed("something else") == "something else"
