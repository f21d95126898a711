import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image
from torch import Tensor, nn

from dual_image_clip import DualImageCLIP
from dual_image_clip.hooks import GoldenImageError
from dual_image_clip.photos import UnusableImageError
from dual_image_clip.streaming import StreamingDetector, StreamingResult
from tests.helpers import assert_same, tiny_model

SIDE, PATCHES = 64, 16


def make_model(**arguments) -> DualImageCLIP:
    return tiny_model(**{"class_name": "plate", "adaptation_steps": 0, **arguments})


def some_image(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def numbers(result: StreamingResult) -> tuple:
    return result.score, result.label, result.threshold, result.num_references


def same(one: StreamingResult, other: StreamingResult, tolerance: float = 1e-5) -> bool:
    return numbers(one) == pytest.approx(numbers(other), abs=tolerance) and torch.allclose(
        one.anomaly_map, other.anomaly_map, atol=tolerance
    )


# Scores


def in_evaluation(model: DualImageCLIP, images: list[np.ndarray], references: int) -> tuple[list[float], list[Tensor]]:
    """Scores and maps as an evaluation has them, with batches of one image."""
    model.set_class_name("plate")
    model.model.references.num_references = references
    model.model.reset()
    scores, maps = [], []
    for index, image in enumerate(images):
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        predictions = model.model(model.pre_processor.transform(pixels), [f"{index}.png"])
        scores.append(float(predictions.pred_score[0]) / model.model.weights.score_maximum)
        maps.append(predictions.anomaly_map[0] / model.model.weights.map_maximum)
    return scores, maps


@pytest.mark.parametrize(
    "settings",
    [{}, {"adaptation_steps": 2}, {"aggregation": "median", "lambda_4": 3.0}, {"num_references": 5}],
    ids=str,
)
@pytest.mark.parametrize("references", [0, 1, 3])
def test_images_score_as_in_an_evaluation_of_one_at_a_time(settings, references):
    images = [some_image(seed) for seed in range(7)]
    detector = StreamingDetector(make_model(**settings), references)
    results = [detector(image) for image in images]
    scores, maps = in_evaluation(make_model(**settings), images, references)
    assert [result.num_references for result in results] == [min(index, references) for index in range(7)]
    assert [result.score for result in results] == pytest.approx(scores, abs=1e-5)
    for result, anomaly_map in zip(results, maps, strict=True):
        assert result.anomaly_map.shape == (SIDE, SIDE)
        assert_same(result.anomaly_map, anomaly_map)
    assert len({round(score, 4) for score in scores}) == 7


def test_a_new_detector_starts_anew():
    model = make_model(adaptation_steps=2)
    first = StreamingDetector(model, 2)
    before = [first(some_image(seed)) for seed in range(10)]
    second = StreamingDetector(model, 2)
    assert all(same(one, second(some_image(seed)), 0) for seed, one in enumerate(before))


def test_an_image_that_came_before_has_no_visual_anomaly():
    visual_only = {"lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}
    detector = StreamingDetector(make_model(**visual_only), references=3)
    detector(some_image(0))
    assert detector(some_image(1)).score > 1e-3
    assert detector(some_image(2)).num_references == 2
    assert detector(some_image(0)).score == pytest.approx(0, abs=1e-6)
    # Image 1 has been driven out by now.
    assert detector(some_image(3)).num_references == 3
    assert detector(some_image(1)).score > 1e-3


# Labels


def literal_threshold(scores: list[float]) -> float:
    if len(scores) < 8:
        return 1.0
    deviation = 1.4826 * np.median(np.abs(np.array(scores) - np.median(scores)))
    return np.median(scores) + 3.5 * max(deviation, 0.01)


def test_labels_follow_the_robust_rule_over_the_images_so_far():
    detector = StreamingDetector(make_model(lambda_4=5.0), references=4)
    scores, labels = [], []
    for index in range(40):
        # All but two of the images are nearly alike.
        image = some_image(90 + index) if index in (20, 33) else some_image(1) // 2 + some_image(index) // 16
        result = detector(image)
        scores.append(result.score)
        assert result.threshold == pytest.approx(literal_threshold(scores), abs=1e-5)
        assert result.label == (result.score > result.threshold)
        labels.append(result.label)
    assert labels[20]
    assert labels[33]
    assert sum(labels) < 10


@pytest.mark.parametrize(("threshold", "label"), [(0.0, True), (1.0, False)])
def test_a_threshold_replaces_the_rule(threshold, label):
    detector = StreamingDetector(make_model(threshold=threshold))
    for seed in range(10):
        result = detector(some_image(seed))
        assert result.threshold == threshold
        assert result.label is label


def test_a_threshold_that_ground_truth_has_set_holds():
    scores = in_evaluation(make_model(), [some_image(seed) for seed in range(6)], references=8)[0]
    model = make_model()
    limit = sorted(scores)[2] + 1e-6
    model.post_processor._image_threshold.fill_(limit * model.model.weights.score_maximum)
    detector = StreamingDetector(model)
    results = [detector(some_image(seed)) for seed in range(6)]
    assert {result.threshold for result in results} == {0.5}
    assert [result.label for result in results] == [score > limit for score in scores]
    assert [result.score > 0.5 for result in results] == [score > limit for score in scores]


def test_the_models_own_observations_do_not_count_and_are_left_alone():
    model = make_model()
    seen = torch.full((5,), 0.5)
    model.post_processor.post_process_batch(
        ImageBatch(image=torch.zeros(5, 3, 8, 8), pred_score=seen, anomaly_map=torch.zeros(5, 8, 8))
    )
    for detector in (StreamingDetector(model), StreamingDetector(model)):
        thresholds = [detector(some_image(seed)).threshold for seed in range(9)]
        assert [threshold < 1 for threshold in thresholds] == [False] * 7 + [True] * 2
    assert float(model.post_processor.current_threshold()) == 1


# Kinds of images


def test_every_form_of_an_image_scores_alike(tmp_path):
    array = some_image(5)
    Image.fromarray(array).save(tmp_path / "image.png")
    read_only = array.copy()
    read_only.flags.writeable = False
    forms = {
        "array": array.copy(),
        "read-only": read_only,
        "backwards": np.ascontiguousarray(array[..., ::-1])[..., ::-1],
        "PIL": Image.fromarray(array),
        "RGBA": Image.fromarray(array).convert("RGBA"),
        "path": tmp_path / "image.png",
        "name": str(tmp_path / "image.png"),
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1) / 255,
        "double": torch.from_numpy(array.copy()).permute(2, 0, 1).double() / 255,
    }
    results = {name: StreamingDetector(make_model())(form) for name, form in forms.items()}
    for name, result in results.items():
        assert same(result, results["array"]), name
    assert not same(StreamingDetector(make_model())(some_image(6)), results["array"])


def test_sixteen_bits_are_kept(tmp_path):
    grey = some_image(5)[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    expected = StreamingDetector(make_model())(np.stack([grey] * 3, axis=-1))
    with Image.open(tmp_path / "grey.png") as image:
        for form in (image, tmp_path / "grey.png"):
            assert same(StreamingDetector(make_model())(form), expected)


@pytest.mark.parametrize("size", [(64, 64), (96, 130), (200, 128), (40, 70)], ids=str)
def test_the_map_has_the_size_of_the_image_and_0_to_1(size):
    detector = StreamingDetector(make_model())
    for seed in range(2):
        result = detector(some_image(seed, size))
        assert result.anomaly_map.shape == size
        assert result.anomaly_map.dtype == torch.float32
        assert 0 <= result.anomaly_map.min() < result.anomaly_map.max() <= 1
        assert 0 <= result.score <= 1


def test_the_map_is_hot_where_the_defect_is():
    visual_only = {"lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0, "smooth": False}
    detector = StreamingDetector(make_model(**visual_only))
    image = some_image(5, (256, 256))
    detector(image)
    spoilt = image.copy()
    spoilt[64:128, 128:192] = (255, 0, 255)
    heat = detector(spoilt).anomaly_map
    y, x = divmod(int(heat.argmax()), 256)
    # Bilinear maps peak at the patch's place on the 4x4 grid stretched over the image.
    assert abs(y - 85) < 32
    assert abs(x - 170) < 32


def test_defects_that_are_too_small_are_not_listed():
    (found,) = StreamingDetector(make_model(threshold=0.1))(some_image(5)).defects
    for least, expected in ((found.area, (found,)), (found.area + 1, ())):
        assert StreamingDetector(make_model(threshold=0.1), min_area=least)(some_image(5)).defects == expected


# Golden images


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    (tmp_path / "golden").mkdir()
    for seed in range(3):
        Image.fromarray(some_image(50 + seed)).save(tmp_path / "golden" / f"{seed}.png")
    return tmp_path / "golden"


def test_golden_images_are_compared_with_from_the_first_image_on(golden):
    visual_only = {"lambda_2": 0.0, "lambda_3": 0.0, "lambda_5": 0.0}
    detector = StreamingDetector(make_model(k_shot=3, few_shot_source=golden, **visual_only), references=2)
    assert detector(some_image(51)).score == pytest.approx(0, abs=1e-6)
    results = [detector(some_image(seed)) for seed in range(4)]
    assert [result.num_references for result in results] == [4, 5, 5, 5]
    assert all(result.score > 1e-3 for result in results)
    assert detector(some_image(52)).score == pytest.approx(0, abs=1e-6)


def test_a_golden_image_is_not_its_own_query(golden):
    detector = StreamingDetector(make_model(k_shot=1, few_shot_source=golden))
    for path in golden.iterdir():
        with pytest.raises(GoldenImageError, match=path.name):
            detector(path)


# Memory


def live_tensors() -> tuple[int, int]:
    """How many tensors there are that share no memory, and how many bytes they have."""
    gc.collect()
    # Exact types, for an export in the same process leaves tensors without memory behind.
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) in {Tensor, nn.Parameter}]
    found = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return len(found), sum(found.values())


@pytest.mark.parametrize("settings", [{}, {"adaptation_steps": 1}], ids=str)
def test_a_thousand_images_leave_no_more_behind_than_the_references(settings):
    detector = StreamingDetector(make_model(**settings), references=4)

    def run(first: int, count: int) -> None:
        for seed in range(first, first + count):
            detector(some_image(seed))

    run(0, 1)
    tensors, size = live_tensors()
    run(1, 9)
    with_all, size_with_all = live_tensors()
    assert with_all == tensors + 3
    # 16 patches of 24 numbers, 4 bytes each.
    assert size_with_all == size + 3 * PATCHES * 24 * 4
    run(10, 1000 if not settings else 100)
    assert live_tensors() == (with_all, size_with_all)


# Threads


@pytest.mark.parametrize("steps", [0, 2])
def test_threads_give_what_calls_one_by_one_give(steps):
    count = 48
    images = [some_image(seed) for seed in range(count)]
    detector = StreamingDetector(make_model(adaptation_steps=steps), references=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(detector, images))
    finally:
        sys.setswitchinterval(interval)
    # With room for all images, the number of references tells which one came when.
    order = sorted(range(count), key=lambda index: results[index].num_references)
    assert [results[index].num_references for index in order] == list(range(count))
    one_by_one = StreamingDetector(make_model(adaptation_steps=steps), references=count)
    for index in order:
        assert same(results[index], one_by_one(images[index]), 1e-4)


# What can go wrong


def test_a_class_name_is_asked_for():
    with pytest.raises(ValueError, match=r"call model\.set_class_name"):
        StreamingDetector(make_model(class_name=None))
    model = make_model(class_name=None)
    model.set_class_name("plate")
    expected = StreamingDetector(make_model())(some_image(0))
    assert same(StreamingDetector(model)(some_image(0)), expected)


def test_training_mode_changes_nothing():
    expected = StreamingDetector(make_model())(some_image(0))
    assert same(StreamingDetector(make_model().train())(some_image(0)), expected)


def test_negative_references_are_refused():
    with pytest.raises(ValueError, match="references must be at least 0, got -1"):
        StreamingDetector(make_model(), references=-1)


def test_golden_images_need_a_folder():
    with pytest.raises(GoldenImageError, match="k_shot=2 needs good images"):
        StreamingDetector(make_model(k_shot=2))


def test_another_post_processor_is_refused():
    with pytest.raises(TypeError, match="post_processor must be a LabelFreePostProcessor, got NoneType"):
        StreamingDetector(make_model(post_processor=False))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((64, 64), dtype=np.uint8), ValueError, r"shape \(H, W, 3\) and type uint8, got \(64, 64\)"),
        (np.zeros((3, 64, 64), dtype=np.uint8), ValueError, r"got \(3, 64, 64\)"),
        (np.zeros((64, 64, 3), dtype=np.float32), ValueError, "float32"),
        (torch.zeros(1, 3, 64, 64), ValueError, r"shape \(3, H, W\)"),
        (torch.zeros(64, 64, 3), ValueError, r"got \(64, 64, 3\)"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), ValueError, "uint8"),
        (torch.full((3, 64, 64), 255.0), ValueError, r"must lie in 0..1, got 255..255"),
        (torch.full((3, 64, 64), -0.1), ValueError, "must lie in 0..1"),
        (torch.full((3, 64, 64), float("nan")), ValueError, "must lie in 0..1"),
        (torch.zeros(3, 15, 64), ValueError, "image has 15×64 pixels, less than one 16×16 patch"),
        (np.zeros((64, 0, 3), dtype=np.uint8), ValueError, "image has 64×0 pixels"),
        ("nowhere.png", UnusableImageError, r"nowhere\.png cannot be read"),
        (17, TypeError, "got int"),
        ([1, 2], TypeError, "got list"),
    ],
    ids=repr,
)
def test_images_that_are_none_are_refused_and_leave_no_trace(image, error, message):
    detector = StreamingDetector(make_model())
    with pytest.raises(error, match=message):
        detector(image)
    assert detector(some_image(0)).num_references == 0


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(UnusableImageError, match=r"broken\.png cannot be read"):
        StreamingDetector(make_model())(tmp_path / "broken.png")


def test_pixels_are_known_by_the_name_of_their_file(tmp_path):
    """Of somebody who has read the file, such as for a picture of what was found."""
    for folder, name in (("masks", "a.png"), ("good", "good.png")):
        (tmp_path / folder).mkdir()
        Image.new("L", (SIDE, SIDE), 255).save(tmp_path / folder / name)
    arguments = {"regions": tmp_path / "masks", "k_shot": 1, "few_shot_source": tmp_path / "good"}
    Image.new("L", (SIDE, SIDE), 255).save(tmp_path / "masks" / "good.png")
    detector = StreamingDetector(make_model(**arguments))
    assert detector(some_image(1), "photos/a.png").num_references == 1
    with pytest.raises(UnusableImageError, match=r"b\.png has no mask"):
        detector(some_image(1), "b.png")
    with pytest.raises(GoldenImageError, match=r"good\.png is to be scored, but it is among the golden images"):
        detector(some_image(1), str(tmp_path / "good" / "good.png"))
