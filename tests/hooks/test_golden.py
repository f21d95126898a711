from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from anomalib.data import AnomalibDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from dual_image_clip.hooks.golden import GoldenImageError, GoldenImages, draw_images, good_training_images, image_paths


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images, two of them in a subfolder, and a file that is none."""
    for name in ("a.png", "b.JPG", "c.tif", "d.bmp", "more/e.png", "more/deep/f.jpeg", "notes.txt"):
        path = tmp_path / "golden" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "golden"


class Training(AnomalibDataset):
    def __init__(self, folder: Path, good: int, anomalous: int) -> None:
        super().__init__()
        rows = []
        for index in range(good + anomalous):
            path = folder / f"train_{index:02}.png"
            path.touch()
            rows.append({"image_path": str(path), "label_index": int(index >= good), "split": "train"})
        samples = pd.DataFrame(rows)
        samples.attrs["task"] = "classification"
        self.samples = samples


def datamodule(folder: Path, good: int = 5, anomalous: int = 2) -> SimpleNamespace:
    return SimpleNamespace(train_data=Training(folder, good, anomalous))


# draw_images


@settings(deadline=None)
@given(st.sets(st.text("abcdef", min_size=1), min_size=1, max_size=20), st.integers(0, 2**31), st.data())
def test_a_draw_depends_on_the_set_and_the_seed_only(paths, seed, data):
    count = data.draw(st.integers(0, len(paths)))
    drawn = draw_images(sorted(paths), count, seed)
    assert len(drawn) == len(set(drawn)) == count
    assert set(drawn) <= paths
    assert draw_images(data.draw(st.permutations(sorted(paths))), count, seed) == drawn


def test_every_image_may_be_drawn():
    paths = [str(number) for number in range(5)]
    firsts = {draw_images(paths, 1, seed)[0] for seed in range(100)}
    assert firsts == set(paths)


def test_more_golden_images_include_those_of_fewer():
    paths = [str(number) for number in range(9)]
    assert draw_images(paths, 8, seed=3)[:4] == draw_images(paths, 4, seed=3)


# Folders


def test_images_are_found_in_subfolders_and_other_files_are_not(folder):
    names = [str(Path(path).relative_to(folder)) for path in image_paths(folder)]
    assert sorted(names) == ["a.png", "b.JPG", "c.tif", "d.bmp", "more/deep/f.jpeg", "more/e.png"]


def test_a_single_image_is_a_source(folder):
    assert GoldenImages(1, folder / "a.png", seed=0).paths == [str(folder / "a.png")]


def test_golden_images_of_a_folder_are_chosen_at_once_and_for_good(folder, tmp_path):
    golden = GoldenImages(4, str(folder), seed=1)
    chosen = list(golden.paths)
    assert chosen == draw_images(image_paths(folder), 4, seed=1)
    golden.choose(datamodule(tmp_path))
    golden.choose(None)
    assert golden.paths == chosen


@pytest.mark.parametrize("kind", ["missing", "empty", "without images", "no image"])
def test_a_source_without_images_is_named(kind, folder, tmp_path):
    source = {
        "missing": tmp_path / "nowhere",
        "empty": tmp_path / "empty",
        "without images": tmp_path / "texts",
        "no image": folder / "notes.txt",
    }[kind]
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").touch()
    message = "does not exist" if kind == "missing" else "has no image"
    with pytest.raises(GoldenImageError, match=rf"few_shot_source='.*{source.name}' {message}"):
        GoldenImages(1, source, seed=0)


def test_all_images_of_a_folder_may_be_golden_but_not_more(folder):
    assert len(GoldenImages(6, folder, seed=0).paths) == 6
    with pytest.raises(GoldenImageError, match=r"k_shot=7, but few_shot_source='.*golden' has 6 good image"):
        GoldenImages(7, folder, seed=0)


def test_a_folder_without_a_number_is_refused(folder):
    with pytest.raises(GoldenImageError, match=r"few_shot_source='.*golden', but k_shot=0: set k_shot"):
        GoldenImages(0, folder, seed=0)


# Training sets


def test_only_good_training_images_are_drawn(tmp_path):
    golden = GoldenImages(5, None, seed=2)
    golden.choose(datamodule(tmp_path, good=5, anomalous=2))
    assert sorted(golden.paths) == [str(tmp_path / f"train_{index:02}.png") for index in range(5)]
    assert golden.paths == draw_images(golden.paths, 5, seed=2)


def test_too_few_good_training_images_are_refused(tmp_path):
    with pytest.raises(GoldenImageError, match="k_shot=6, but the training set of SimpleNamespace has 5 good image"):
        GoldenImages(6, None, seed=0).choose(datamodule(tmp_path, good=5, anomalous=2))


@pytest.mark.parametrize("data", [None, SimpleNamespace(), SimpleNamespace(train_data=[1, 2])], ids=str)
def test_neither_folder_nor_training_set(data):
    assert good_training_images(data) == []
    with pytest.raises(GoldenImageError, match="k_shot=3 needs good images: set few_shot_source"):
        GoldenImages(3, None, seed=0).choose(data)
    GoldenImages(0, None, seed=0).choose(data)


def test_another_training_set_brings_other_golden_images_and_none_leaves_them(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    golden = GoldenImages(2, None, seed=0)
    golden.choose(datamodule(tmp_path / "one"))
    golden.choose(datamodule(tmp_path / "two"))
    assert {Path(path).parent.name for path in golden.paths} == {"two"}
    before = list(golden.paths)
    golden.choose(None)
    assert golden.paths == before


def test_those_of_a_checkpoint_stay(tmp_path):
    golden = GoldenImages(2, None, seed=0)
    golden.restore(["gone/x.png", "gone/y.png"])
    golden.choose(datamodule(tmp_path))
    assert golden.paths == ["gone/x.png", "gone/y.png"]
    with pytest.raises(GoldenImageError, match="gone/y"):
        golden.require_apart_from(["gone/y.png"])


# The query itself


@pytest.mark.parametrize("way", ["itself", "relative", "detour", "link"])
def test_a_query_among_the_golden_images_is_refused_whether_drawn_or_not(way, folder, tmp_path, monkeypatch):
    golden = GoldenImages(1, folder, seed=0)
    monkeypatch.chdir(tmp_path)
    for path in map(Path, image_paths(folder)):
        link = tmp_path / f"link_to_{path.name}"
        link.symlink_to(path)
        query = {
            "itself": path,
            "relative": path.relative_to(tmp_path),
            "detour": path.parent / ".." / path.parent.name / path.name,
            "link": link,
        }[way]
        with pytest.raises(GoldenImageError, match=rf"{query.name} is to be scored, but it is among the golden"):
            golden.require_apart_from([tmp_path / "other.png", query])


def test_queries_of_another_folder_are_fine(folder, tmp_path):
    (tmp_path / "a.png").touch()
    GoldenImages(3, folder, seed=0).require_apart_from([tmp_path / "a.png", folder / "notes.txt"])
    GoldenImages(0, None, seed=0).require_apart_from([folder / "a.png"])
