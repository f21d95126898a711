"""Photos that are accepted as good become golden samples at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dual_image_clip import DualImageCLIP
from dual_image_clip.export import ExportableDetector
from dual_image_clip.golden_memory import GoldenMemory, most_redundant
from dual_image_clip.photos import PhotoReader, UnusableImageError
from dual_image_clip.prediction import OutputError
from dual_image_clip.streaming import StreamingDetector
from tests.drawn_data import draw_plate, save
from tests.helpers import assert_same, cloudy_images, make_model, tiny_model, unit_vectors

VISUAL_ONLY = {"adaptation_steps": 0, "lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}


def model_of(golden: Path | None = None, **arguments) -> DualImageCLIP:
    folder = {} if golden is None else {"few_shot_source": golden, "k_shot": len(list(golden.rglob("*.png")))}
    return tiny_model(**{"class_name": "plate", **VISUAL_ONLY, **folder, **arguments})


def photo(seed: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    """Of 8 bits, as files have."""
    return (cloudy_images(1, size, seed)[0] * 255).round() / 255


def saved_photos(folder: Path, *seeds: int) -> Path:
    for seed in seeds:
        save((photo(seed) * 255).round().byte().permute(1, 2, 0).numpy(), folder / f"{seed}.png")
    return folder


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return saved_photos(tmp_path / "golden", 50, 51)


# What an acceptance does


def warm(picture: np.ndarray) -> np.ndarray:
    """The same product under another lamp."""
    return (picture * np.array([1.0, 0.62, 0.35])).astype(np.uint8)


def test_photos_of_an_accepted_kind_are_no_longer_called_anomalous(tmp_path):
    for seed in range(4):
        save(draw_plate(seed)[0], tmp_path / f"{seed}.png")
    model = make_model(
        class_name="metal plate", adaptation_steps=0, k_shot=4, few_shot_source=tmp_path, threshold=0.255
    )
    detector = StreamingDetector(model, references=0)

    def labels(first: int, defect: str | None = None, lamp=warm) -> list[bool]:
        return [detector(lamp(draw_plate(first + index, defect=defect)[0])).label for index in range(4)]

    assert labels(100, lamp=np.asarray) == [False] * 4
    assert labels(300) == [True] * 4
    for seed in range(300, 303):
        assert detector.accept(warm(draw_plate(seed)[0]))
    assert labels(310) == [False] * 4
    assert labels(100, lamp=np.asarray) == [False] * 4
    assert labels(410, "spot") == labels(420, "scratch") == [True] * 4


def test_an_accepted_photo_is_a_golden_sample_at_once(golden):
    detector = StreamingDetector(model_of(golden), references=0)
    before = detector(photo(1))
    assert (before.num_references, before.score > 1e-3) == (2, True)
    assert detector.accept(photo(1))
    after = detector(photo(1))
    assert after.num_references == 3
    assert after.score == pytest.approx(0, abs=1e-6)


def test_every_form_of_a_photo_can_be_accepted_and_scored_again(golden, tmp_path):
    saved_photos(tmp_path / "line", 1)
    path = tmp_path / "line" / "1.png"
    for form in (path, str(path), np.asarray(Image.open(path)), Image.open(path), photo(1)):
        detector = StreamingDetector(model_of(golden), references=0)
        detector.accept(form)
        assert detector(path).score == pytest.approx(0, abs=1e-6)


def test_one_photo_is_one_golden_sample(golden):
    memory = GoldenMemory(model_of(golden))
    assert len(memory) == 2
    assert [memory.accept(photo(seed)) for seed in (1, 1, 50, 2, 1)] == [True, False, False, True, False]
    assert len(memory) == 4
    assert list(memory.accepted) == ["accepted_0001.png", "accepted_0002.png"]


def test_a_new_memory_of_the_model_begins_with_what_was_accepted(golden):
    model = model_of(golden)
    GoldenMemory(model).accept(photo(1))
    again = GoldenMemory(model)
    assert len(again) == 3
    assert not again.accept(photo(1))


def test_memories_of_one_model_take_turns():
    model = model_of()
    one, other = GoldenMemory(model), GoldenMemory(model)
    one.accept(photo(1))
    other.accept(photo(2))
    other.accept(photo(3))
    assert (len(one), len(other), model.model.num_golden) == (1, 2, 2)
    one.use()
    assert model.model.num_golden == 1
    assert_same(model.model.golden_references, model.model.encode(model.pre_process(photo(1)[None])).patches[0])


def test_what_was_accepted_is_in_a_checkpoint_and_in_an_export():
    model = model_of()
    model.complete()
    memory = GoldenMemory(model)
    memory.accept(photo(1))
    memory.accept(photo(2, (64, 96)))
    restored = model_of()
    restored.load_state_dict(model.state_dict())
    restored.complete()
    assert restored.model.num_golden == 2
    detector = ExportableDetector(restored.model, model.pre_processor, model.post_processor, (64, 64))
    assert detector(photo(1)[None]).pred_score.item() == pytest.approx(0, abs=1e-6)
    assert detector(photo(3)[None]).pred_score.item() > 1e-3


def test_a_photo_that_cannot_be_used_changes_nothing(golden, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    detector = StreamingDetector(model_of(golden))
    for image, reason in (
        (tmp_path / "broken.png", "broken.png cannot be read"),
        (torch.rand(3, 8, 64), "image has 8×64 pixels, less than one"),
    ):
        with pytest.raises(UnusableImageError, match=reason):
            detector.accept(image)
    assert detector(photo(0)).num_references == 2
    assert detector.save_golden(tmp_path / "out") == []


def test_threads_may_accept_while_others_score():
    detector = StreamingDetector(model_of(), references=0)
    with ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(detector.accept, [photo(seed % 8) for seed in range(24)]))
        results = list(pool.map(detector, [photo(seed) for seed in range(8)]))
    assert sum(accepted) == 8
    assert [result.num_references for result in results] == [8] * 8
    assert [result.score for result in results] == pytest.approx([0] * 8, abs=1e-6)


# Which ones stay


def literal_redundancy(samples: list[Tensor]) -> list[float]:
    """Largest distance of a patch of each one to the nearest patch of any other."""
    arrays = [each.numpy() for each in samples]
    found = []
    for index, ours in enumerate(arrays):
        others = np.concatenate(arrays[:index] + arrays[index + 1 :])
        found.append(max([min(1 - patch @ other for other in others) for patch in ours]))
    return found


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_sample_that_leaves_is_the_one_that_the_others_cover_best(count):
    for seed in range(5):
        samples = [unit_vectors(4 + index % 3, 6, seed=100 * seed + index) for index in range(count)]
        assert most_redundant(samples) == int(np.argmin(literal_redundancy(samples)[:-1]))


def test_a_lone_sample_is_not_redundant():
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        most_redundant([torch.eye(2)])


def test_there_are_never_more_golden_samples_than_most(golden):
    model = model_of(golden)
    memory = GoldenMemory(model, most=4)
    detector = StreamingDetector(model, references=0)
    for seed in range(8):
        memory.accept(photo(seed))
        assert len(memory) == model.model.num_golden == min(3 + seed, 4)
        assert len(memory.accepted) <= 4
        assert detector(photo(seed)).score == pytest.approx(0, abs=1e-6)


def test_a_kind_that_is_rare_outlasts_many_alike():
    model = model_of()
    memory = GoldenMemory(model, most=3)
    rare, common = photo(1), photo(2)
    memory.accept(rare)
    for step in range(6):
        memory.accept((common * (0.9 + step / 100)).clamp(0, 1))
    assert StreamingDetector(model, references=0)(rare).score == pytest.approx(0, abs=1e-6)


def test_a_model_may_begin_with_more_than_most(golden):
    memory = GoldenMemory(model_of(golden), most=1)
    assert len(memory) == 2
    memory.accept(photo(1))
    assert len(memory) == 2


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        GoldenMemory(model_of(), most=0)


# Saved and loaded again


def test_a_model_that_begins_with_the_saved_photos_scores_the_same(tmp_path):
    detector = StreamingDetector(model_of(), references=0)
    for seed, size in ((1, (64, 64)), (2, (100, 130)), (3, (64, 200))):
        detector.accept(photo(seed, size))
    files = detector.save_golden(tmp_path / "accepted")
    assert [each.name for each in files] == [f"accepted_000{number}.png" for number in (1, 2, 3)]
    again = StreamingDetector(model_of(tmp_path / "accepted"), references=0)
    for seed in range(10, 13):
        assert again(photo(seed)).score == pytest.approx(detector(photo(seed)).score, abs=1e-6)
        assert again(photo(seed)).num_references == 3


def test_a_large_photo_is_kept_smaller(monkeypatch, tmp_path):
    most = 100_000
    monkeypatch.setattr("dual_image_clip.golden_memory.MOST_GOLDEN_PIXELS", most)
    memory = GoldenMemory(model_of())
    large = photo(1, (400, 600))
    memory.accept(large, "large.tif")
    (path,) = memory.save(tmp_path)
    with Image.open(path) as image:
        assert 0.99 * most < image.width * image.height <= most
        assert image.width / image.height == pytest.approx(1.5, abs=0.01)
    again = StreamingDetector(model_of(tmp_path), references=0)
    assert again(large).score == pytest.approx(0, abs=1e-3)
    assert again(photo(2)).score > 1e-2


def test_what_is_saved_again_replaces_what_was_saved_and_nothing_else(golden, tmp_path):
    memory = GoldenMemory(model_of(golden))
    memory.accept(photo(1), "a.png")
    # Beside the golden images that the model has begun with.
    memory.save(golden)
    memory.accept(photo(2), "b.png")
    assert sorted(memory.save(golden)) == [golden / "a.png", golden / "b.png"]
    assert StreamingDetector(model_of(golden), references=0)(photo(2)).num_references == 4
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_text("somebody's own")
    with pytest.raises(OutputError, match=r"a\.png is there already"):
        memory.save(tmp_path / "other")
    assert (tmp_path / "other" / "a.png").read_text() == "somebody's own"


def test_names_and_folders_are_kept_and_tell_photos_apart():
    memory = GoldenMemory(model_of())
    names = ["line/one/a.tif#2", "/line/two/a.jpg", "two/A.bmp", "a.jpg", "../a.png", "../../two/a.png", None]
    for seed, name in enumerate(names):
        memory.accept(photo(seed), name)
    assert list(memory.accepted) == [
        *("one/a.png", "two/a.png", "2/two/A.png", "a.png", "2/a.png", "3/two/a.png", "accepted_0007.png")
    ]


def test_each_accepted_photo_has_the_region_of_its_name(tmp_path):
    for name, left in (("one", 0), ("two", 32)):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, left : left + 32] = 255
        save(mask, tmp_path / "masks" / name / "a.png")
    detector = StreamingDetector(model_of(regions=tmp_path / "masks"), references=0)
    for seed, name in enumerate(("one", "two")):
        saved_photos(tmp_path / "line" / name, seed)
        (tmp_path / "line" / name / f"{seed}.png").rename(tmp_path / "line" / name / "a.png")
        assert detector.accept(tmp_path / "line" / name / "a.png")
    with pytest.raises(UnusableImageError, match="image has no name by which its mask"):
        detector.accept(photo(5))
    assert detector.accept(photo(5), "two/a.png")
    detector.save_golden(tmp_path / "accepted")
    again = model_of(tmp_path / "accepted", regions=tmp_path / "masks")
    again.load_golden_images()
    rows = sorted(map(tuple, again.model.golden_references.tolist()))
    expected = sorted(map(tuple, detector._model.model.golden_references.tolist()))
    assert_same(torch.tensor(rows), torch.tensor(expected))


def test_sixteen_bits_are_saved_as_the_range_has_made_them(tmp_path):
    grey = (photo(1)[0] * 4095).round().short().numpy().astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    detector = StreamingDetector(model_of(value_range=(0, 4095)), references=0)
    detector.accept(tmp_path / "deep.png")
    (path,) = detector.save_golden(tmp_path / "accepted")
    for value_range in (None, (0, 4095)):
        found = PhotoReader(value_range=value_range).read(path)
        assert_same(found, photo(1)[:1].expand(3, -1, -1), 1 / 250)
