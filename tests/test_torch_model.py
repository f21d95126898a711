import gc
import math
import os
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from dual_image_clip.method import (
    AdaptationSettings,
    DualPathEncoder,
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    ReferencePool,
    ScoreWeights,
    initial_adapter,
)
from dual_image_clip.torch_model import DualImageCLIPModel

TILE, PATCH, DIM = 64, 16, 24
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)
SEED, TEMPERATURE = 3, 0.1
PRIMES = ScoreWeights(2.0, 3.0, 5.0, 7.0, 11.0)
VISUAL_ONLY = ScoreWeights(1.0, 0.0, 0.0, 1.0, 0.0)
CLASS_TOKEN_ONLY = ScoreWeights(0.0, 1.0, 1.0, 0.0, 0.0)
LOGGER = "dual_image_clip.torch_model"


def build(
    clip: nn.Module, references: int = 1, steps: int = 2, weights: ScoreWeights = PRIMES, golden: int = 0, **changes
):
    model = DualImageCLIPModel(
        encoder=DualPathEncoder(clip.visual),
        references=ReferencePool(references, SEED),
        pseudo_anomalies=PseudoAnomalyGenerator(None, SEED),
        adaptation=AdaptationSettings(steps, learning_rate=0.01, beta=0.7),
        weights=weights,
        temperature=changes.pop("temperature", TEMPERATURE),
        image_size=(TILE, TILE),
        image_mean=MEAN,
        image_std=STD,
        seed=SEED,
        **changes,
    )
    texts = torch.randn(2, DIM, generator=torch.Generator().manual_seed(1))
    model.text_embeddings.copy_(F.normalize(texts, dim=-1))
    model.set_golden_images(some_images(1, seed=70 + index) for index in range(golden))
    return model


def normalized(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def some_images(count: int, size: tuple[int, int] = (TILE, TILE), seed: int = 0) -> Tensor:
    """Smooth structure and a little noise, so that the patches of an image differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size, mode="bicubic")
    return normalized((coarse + 0.1 * torch.rand(count, 3, *size, generator=generator)).clamp(0, 1))


def names(count: int, first: int = 0) -> list[str]:
    return [f"image_{first + index}.png" for index in range(count)]


def assert_same(actual, expected, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), atol=tolerance, rtol=0)


def assert_identical(one, two) -> None:
    assert torch.equal(one.pred_score, two.pred_score)
    assert torch.equal(one.anomaly_map, two.anomaly_map)


# The whole forward, word by word


def literal_score(token: Tensor, texts: Tensor) -> Tensor:
    """Eq. 1-3."""
    normal, anomalous = ((token @ text / (token.norm() * text.norm()) / TEMPERATURE).exp() for text in texts)
    return anomalous / (normal + anomalous)


def literal_visual_map(patches: Tensor, references: list[Tensor], aggregation: str) -> Tensor:
    """Eq. 5 for each reference; then one number for all."""

    def distance(patch: Tensor, reference: Tensor) -> float:
        return (1 - F.cosine_similarity(patch[None], reference, dim=1)).min().item()

    def aggregated(distances: list[float]) -> float:
        third = sorted(distances)[: max(1, len(distances) // 3)]
        return {"minimum": min(distances), "lowest_third": mean(third), "median": median(distances)}[aggregation]

    return torch.tensor([aggregated([distance(patch, each) for each in references]) for patch in patches])


def literal_covered(mask: Tensor, corners: list[tuple[int, int]]) -> list[bool]:
    shares = [
        mask[y : y + PATCH, x : x + PATCH].mean().item()
        for top, left in corners
        for y in range(top, top + TILE, PATCH)
        for x in range(left, left + TILE, PATCH)
    ]
    return [share >= 0.5 for share in shares] if max(shares) >= 0.5 else [share == max(shares) for share in shares]


def literal_adapted_map(patches: Tensor, copies: Tensor, covered: list[bool], joint: Tensor, model) -> Tensor:
    """Eq. 7-11: one image, one linear layer, one optimiser."""
    adapter = nn.Linear(DIM, DIM)
    start = initial_adapter(DIM, torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        adapter.weight.copy_(start.weight[0])
        adapter.bias.copy_(start.bias[0])
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=model.adaptation.learning_rate, foreach=False)

    def adapted(tokens: Tensor) -> Tensor:
        return torch.stack([literal_score((adapter(q) + q) / 2, model.text_embeddings) for q in tokens])

    for _ in range(model.adaptation.steps):
        scores, pseudo_scores = adapted(patches), adapted(copies)
        terms = [
            -(pseudo.exp() / (score.exp() + pseudo.exp())).log()
            for score, pseudo, is_covered in zip(scores, pseudo_scores, covered, strict=True)
            if is_covered
        ]
        similarity = (joint * scores).sum() / (joint.norm() * scores.norm())
        loss = sum(terms) / len(terms) + model.adaptation.beta * (1 - similarity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return adapted(patches).detach()


def literal_pixels(grid: np.ndarray, smooth: bool) -> np.ndarray:
    rows, columns = grid.shape
    if smooth:
        around = np.pad(grid, 1, mode="edge")
        grid = np.array([[around[y : y + 3, x : x + 3].mean() for x in range(columns)] for y in range(rows)])
    y, x = np.meshgrid(np.linspace(0, rows - 1, TILE), np.linspace(0, columns - 1, TILE), indexing="ij")
    return map_coordinates(grid, [y, x], order=1, mode="nearest")


def literal_forward(model, images: Tensor, corners: list[tuple[int, int]]) -> tuple[list[float], list[np.ndarray]]:
    texts, w = model.text_embeddings, model.weights

    def tiles_of(image: Tensor) -> list[Tensor]:
        return [image[None, :, y : y + TILE, x : x + TILE] for y, x in corners]

    features = [[model.encoder(tile) for tile in tiles_of(image)] for image in images]
    patches = torch.stack([torch.cat([tile.patch_tokens.flatten(0, 2) for tile in tiles]) for tiles in features])
    references = ReferencePool(model.references.num_references, SEED).select(patches)
    golden = model.golden_references.chunk(2) if model.num_golden else ()
    scale, shift = torch.tensor(STD).view(3, 1, 1), torch.tensor(MEAN).view(3, 1, 1)
    if model.adaptation.steps:
        pseudo = PseudoAnomalyGenerator(None, SEED)(images * scale + shift)
    scores, maps = [], []
    for index in range(len(images)):
        class_score = sum(literal_score(tile.class_token[0], texts) for tile in features[index]) / len(corners)
        language = torch.stack([literal_score(patch, texts) for patch in patches[index]])
        compared = [*(each[index] for each in references), *golden]
        visual = literal_visual_map(patches[index], compared, model.aggregation) if compared else 0 * language
        text = language
        if model.adaptation.steps:
            copy_tiles = tiles_of((pseudo.images[index] - shift) / scale)
            copies = torch.cat([model.encoder(tile).patch_tokens.flatten(0, 2) for tile in copy_tiles])
            covered = literal_covered(pseudo.masks[index, 0], corners)
            text = literal_adapted_map(patches[index], copies, covered, visual + language, model)
        score = w.lambda_3 * class_score + w.lambda_4 * visual.max() + w.lambda_5 * text.max()
        scores.append(score.item())
        fused = (w.lambda_1 * visual + w.lambda_2 * text).reshape(len(corners), TILE // PATCH, TILE // PATCH).numpy()
        total, times = np.zeros(images.shape[-2:]), np.zeros(images.shape[-2:])
        for (y, x), grid in zip(corners, fused, strict=True):
            total[y : y + TILE, x : x + TILE] += literal_pixels(grid, model.smooth)
            times[y : y + TILE, x : x + TILE] += 1
        maps.append(total / times)
    return scores, maps


SETTINGS = {
    "text only": {"references": 0, "steps": 0},
    "visual only": {"references": 1, "steps": 0, "weights": VISUAL_ONLY},
    "dual": {"references": 1, "steps": 0},
    "dual with two references": {"references": 2, "steps": 0},
    "adapted": {"references": 0, "steps": 2},
    "all": {"references": 1, "steps": 2},
    "all with the paper's weights": {"references": 1, "steps": 2, "weights": ScoreWeights()},
    "all, five steps, two references, not smoothed": {"references": 2, "steps": 5, "smooth": False},
    "two golden images": {"references": 0, "steps": 0, "golden": 2},
    "one reference and two golden images": {"references": 1, "steps": 2, "golden": 2},
    "median of two references and two golden images": {"references": 2, "golden": 2, "aggregation": "median"},
    "lowest third of four references and two golden images": {
        "references": 4,
        "golden": 2,
        "aggregation": "lowest_third",
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("size", "corners"),
    [((64, 64), [(0, 0)]), ((64, 96), [(0, 0), (0, 32)]), ((160, 64), [(0, 0), (48, 0), (96, 0)])],
    ids=["square", "wide", "tall"],
)
def test_forward_is_the_equations_of_the_paper(tiny_clip, settings, size, corners):
    model, images = build(tiny_clip, **settings), some_images(5, size)
    predictions = model(images, names(5))
    scores, maps = literal_forward(model, images, corners)
    assert predictions.pred_score.shape == (5,)
    assert predictions.anomaly_map.shape == (5, *size)
    assert_same(predictions.pred_score, torch.tensor(scores), 2e-4)
    assert_same(predictions.anomaly_map, torch.tensor(np.stack(maps)).float())
    # Images and places differ, so that agreement says something.
    assert predictions.pred_score.std() > 1e-3
    assert predictions.anomaly_map.flatten(1).std(dim=1).min() > 1e-3


def test_every_setting_scores_differently(tiny_clip):
    maps = [build(tiny_clip, **settings)(some_images(5)).anomaly_map for settings in SETTINGS.values()]
    for index, one in enumerate(maps):
        for other in maps[:index]:
            assert not torch.allclose(one, other, atol=1e-3)


# How often the tower runs


def count_passes(model: DualImageCLIPModel) -> list[int]:
    """Number of images in each pass of the tower from now on."""
    passes: list[int] = []
    model.encoder.visual.conv1.register_forward_hook(lambda _module, inputs, _output: passes.append(len(inputs[0])))
    return passes


@pytest.mark.parametrize(("steps", "expected"), [(0, 1), (1, 2), (2, 2), (6, 2)])
@pytest.mark.parametrize(("size", "tiles"), [((64, 64), 1), ((64, 96), 2)], ids=str)
def test_tower_runs_once_and_once_more_to_adapt(tiny_clip, steps, expected, size, tiles):
    model = build(tiny_clip, steps=steps)
    passes = count_passes(model)
    model(some_images(3, size), names(3))
    assert passes == [3 * tiles] * expected
    # A lone image is compared with one that was encoded already.
    model(some_images(1, size), ["another.png"])
    assert passes == [3 * tiles] * expected + [tiles] * expected


# Batches and single images


class FixedReferences(ReferencePool):
    """Hands out what it was given."""

    def __init__(self, references: Tensor) -> None:
        super().__init__(1, seed=0)
        self.references = references

    def select(self, patch_tokens: Tensor, identities=None) -> list[Tensor]:
        del patch_tokens, identities
        return [self.references]


class FixedPseudoAnomalies:
    def __init__(self, copies: PseudoAnomalies) -> None:
        self.copies = copies

    def __call__(self, images: Tensor) -> PseudoAnomalies:
        assert images.shape == self.copies.images.shape
        return self.copies

    def reset(self) -> None:
        pass


@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=str)
def test_batch_is_adapted_as_its_images_one_at_a_time(tiny_clip, size):
    images, count = some_images(5, size), 5
    model = build(tiny_clip, steps=2)
    references = F.normalize(torch.randn(count, 20, DIM, generator=torch.Generator().manual_seed(5)), dim=-1)
    copies, masks = PseudoAnomalyGenerator(None, 5)((images * torch.tensor(STD).view(3, 1, 1)).clamp(0, 1))

    def score(rows: slice):
        model.references = FixedReferences(references[rows])
        model.pseudo_anomalies = FixedPseudoAnomalies(PseudoAnomalies(copies[rows], masks[rows]))
        return model(images[rows], names(count)[rows])

    together = score(slice(None))
    for index in range(count):
        alone = score(slice(index, index + 1))
        assert_same(together.pred_score[index], alone.pred_score[0])
        assert_same(together.anomaly_map[index], alone.anomaly_map[0])


def test_adapter_is_fresh_for_every_image(tiny_clip):
    model, image = build(tiny_clip, references=0, steps=5), some_images(1)
    first = model(image)
    model(some_images(4, seed=9))
    model.reset()
    assert_identical(model(image), first)


# Tiles


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (160, 64), (64, 100)], ids=str)
@pytest.mark.parametrize("steps", [0, 2])
def test_result_has_the_geometry_of_the_image(tiny_clip, size, steps):
    predictions = build(tiny_clip, steps=steps)(some_images(2, size), names(2))
    assert predictions.pred_score.shape == (2,)
    assert predictions.anomaly_map.shape == (2, *size)


@pytest.mark.parametrize("side_by_side", [True, False], ids=["wide", "tall"])
def test_image_of_two_halves_scores_as_its_tiles_do(tiny_clip, side_by_side):
    halves = some_images(2)
    image = torch.cat([halves[0], halves[1]], dim=2 if side_by_side else 1)[None]
    by_half = build(tiny_clip, references=0, steps=0)(halves)
    whole = build(tiny_clip, references=0, steps=0)(image)
    assert_same(whole.anomaly_map[0], torch.cat([*by_half.anomaly_map], dim=1 if side_by_side else 0), 1e-5)
    class_score = build(tiny_clip, references=0, steps=0, weights=CLASS_TOKEN_ONLY)
    assert_same(class_score(image).pred_score[0], class_score(halves).pred_score.mean(), 1e-5)
    patch_score = build(tiny_clip, references=0, steps=0, weights=ScoreWeights(1, 1, 0, 0, 1))
    assert_same(patch_score(image).pred_score[0], patch_score(halves).pred_score.max(), 1e-5)


def test_patches_are_looked_for_in_all_tiles_of_the_reference(tiny_clip):
    one, two = some_images(2)
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY)
    model(torch.cat([one, two], dim=2)[None], ["reference.png"])
    predictions = model(torch.cat([two, one], dim=2)[None], ["query.png"])
    assert_same(predictions.anomaly_map, torch.zeros(1, 64, 128), 1e-5)


def test_size_that_does_not_fit_the_patches_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="multiples of 16"):
        build(tiny_clip)(some_images(2, (40, 64)))


def test_image_of_too_many_tiles_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="tiles"):
        build(tiny_clip)(torch.zeros(1, 3, 64, 64 * 65))


# Set-up


def test_class_name_is_asked_for(tiny_clip):
    model = build(tiny_clip)
    model.text_embeddings.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="set_class_name"):
        model(some_images(2))


def test_training_mode_changes_nothing(tiny_clip):
    expected = build(tiny_clip)(some_images(3))
    tiny_clip.visual.transformer.resblocks[0].mlp.append(nn.Dropout(0.5))
    model = build(tiny_clip).train()
    assert_identical(model(some_images(3)), expected)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("mode", ["plain", "inference", "bf16", "bf16 inference"])
@pytest.mark.parametrize("steps", [0, 2])
def test_modes(tiny_clip, mode, steps):
    model = build(tiny_clip, steps=steps)
    expected = model(some_images(3), names(3))
    model.reset()
    with torch.inference_mode("inference" in mode), torch.autocast("cpu", torch.bfloat16, enabled="bf16" in mode):
        results = [model(some_images(3), names(3)), model(some_images(1, seed=1), ["lone.png"])]
    for result in results:
        for tensor in (result.pred_score, result.anomaly_map):
            assert tensor.dtype == torch.float32
            assert torch.isfinite(tensor).all()
            assert not tensor.requires_grad
    if mode == "inference":
        assert_identical(results[0], expected)
    maximum = model.weights.map_maximum
    assert_same(results[0].anomaly_map, expected.anomaly_map, 0.1 * maximum if "bf16" in mode else 1e-5)


def test_scores_are_not_rounded_to_bfloat16(tiny_clip):
    # At the temperature of CLIP, a cosine in bfloat16 would shift a score by tens of percent.
    model = build(tiny_clip, references=0, steps=0, temperature=0.01)
    images, features = some_images(8), []
    model.encoder.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images).pred_score
    texts = model.text_embeddings.double()

    def literal(tokens: Tensor) -> Tensor:
        return (tokens.double() @ texts.T / 0.01).softmax(dim=-1)[..., 1]

    class_score, patch_scores = literal(features[0].class_token), literal(features[0].patch_tokens).flatten(1)
    assert_same(scores, (PRIMES.lambda_3 * class_score + PRIMES.lambda_5 * patch_scores.amax(dim=1)).float(), 1e-3)


def test_no_parameter_is_trained_or_changed(tiny_clip):
    model = build(tiny_clip)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = model.adapter_weight.clone()
    model(some_images(3))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.adapter_weight, start)


def test_input_is_left_as_it_was(tiny_clip):
    images = some_images(3)
    before = images.clone()
    build(tiny_clip)(images)
    assert torch.equal(images, before)


# Runs


@pytest.mark.parametrize("settings", [{"references": 1}, {"references": 2, "steps": 0}], ids=str)
def test_reset_repeats_a_run_bit_for_bit(tiny_clip, settings):
    model = build(tiny_clip, **settings)

    def run() -> list:
        batches = [4, 1, 3, 1]
        return [model(some_images(count, seed=index), names(count, 10 * index)) for index, count in enumerate(batches)]

    first = run()
    torch.manual_seed(17)
    model.reset()
    for one, two in zip(first, run(), strict=True):
        assert_identical(one, two)
    # Without a reset, pairs and pseudo anomalies are others.
    assert any(not torch.equal(one.pred_score, two.pred_score) for one, two in zip(first, run(), strict=True))


def test_another_seed_gives_another_start(tiny_clip):
    one, two = (
        DualImageCLIPModel(
            DualPathEncoder(tiny_clip.visual),
            ReferencePool(1, 0),
            PseudoAnomalyGenerator(),
            AdaptationSettings(),
            ScoreWeights(),
            TEMPERATURE,
            (TILE, TILE),
            MEAN,
            STD,
            seed=seed,
        )
        for seed in (0, 1)
    )
    assert not torch.equal(one.adapter_weight, two.adapter_weight)


def test_global_randomness_is_left_alone(tiny_clip):
    model = build(tiny_clip)
    state = torch.get_rng_state()
    model(some_images(3))
    model.reset()
    assert torch.equal(torch.get_rng_state(), state)


def test_two_hundred_batches_leave_nothing_behind(tiny_clip):
    model = build(tiny_clip)

    def run(first: int, count: int) -> None:
        for index in range(first, first + count):
            predictions = model(some_images(2, seed=index), names(2, 2 * index))
            assert predictions.anomaly_map.grad_fn is None
            assert predictions.pred_score.grad_fn is None

    def live_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    def resident_bytes() -> int:
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0

    run(0, 20)
    tensors, memory = live_tensors(), resident_bytes()
    run(20, 200)
    assert live_tensors() <= tensors
    # Two images have 98 kB, and the tower's graph for them has more.
    assert resident_bytes() - memory < 200 * 50_000


# References


@pytest.fixture
def warned(caplog):
    """The model's warnings so far."""
    caplog.set_level("WARNING", LOGGER)
    return lambda: [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_lone_image_without_reference_is_scored_by_text_and_warned_about_once(tiny_clip, warned):
    model = build(tiny_clip)
    lone, by_text = model(some_images(1), ["a.png"]), build(tiny_clip, references=0)(some_images(1))
    assert len(warned()) == 1
    assert "no other image" in warned()[0]
    assert_identical(lone, by_text)
    model.reset()
    model(some_images(1), ["a.png"])
    assert len(warned()) == 1


def test_no_warning_where_no_reference_is_wanted_or_one_is_there(tiny_clip, warned):
    build(tiny_clip, references=0)(some_images(1), ["a.png"])
    model = build(tiny_clip)
    model(some_images(2), names(2))
    model(some_images(1), ["a.png"])
    assert not warned()


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_lone_image_is_compared_with_the_one_before(tiny_clip, named):
    model, image = build(tiny_clip, steps=0, weights=VISUAL_ONLY), some_images(1)
    model(some_images(3, seed=8), names(3) if named else None)
    assert model(image, ["a.png"] if named else None).anomaly_map.max() > 0.01
    copy = model(image, ["copy of a.png"] if named else None)
    assert_same(copy.anomaly_map, torch.zeros(1, TILE, TILE), 1e-5)


def test_image_seen_before_is_not_its_own_reference(tiny_clip):
    model, image = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY), some_images(1)
    model(some_images(1, seed=8), ["b.png"])
    first, again = model(image, ["a.png"]), model(image, ["a.png"])
    assert first.anomaly_map.max() > 0.01
    assert_identical(first, again)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_batch_that_lacks_references_is_filled_up_from_the_images_before(tiny_clip, named):
    model, seen, batch = (
        build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY),
        some_images(2, seed=8),
        some_images(2, seed=9),
    )
    model(seen, names(2) if named else None)
    filled = model(batch, names(2, 2) if named else None)
    expected = build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY)(torch.cat([batch, seen]))
    assert_same(filled.anomaly_map, expected.anomaly_map[:2], 1e-5)


class Album:
    """Further images of a data set, and how many were asked for."""

    def __init__(self, *numbers: int, size: tuple[int, int] = (TILE, TILE)) -> None:
        self.numbers = list(numbers)
        self.size = size
        self.asked: list[int] = []

    def __call__(self, count: int):
        self.asked.append(count)
        for number in self.numbers[:count]:
            yield f"image_{number}.png", some_images(1, self.size, seed=number)


@pytest.mark.parametrize(
    ("references", "seen", "batch", "asked"),
    [
        (0, [], [0], []),
        (1, [], [0], [1]),
        (1, [], [0, 1], []),
        (1, [9], [0], []),
        (3, [], [0], [3]),
        (3, [], [0, 1], [2]),
        (3, [9], [0, 1], [1]),
        (3, [8, 9], [0, 1], []),
        (3, [], [0, 1, 2, 3], []),
    ],
)
def test_exactly_what_is_missing_is_looked_for_ahead(tiny_clip, references, seen, batch, asked):
    model, album = build(tiny_clip, references=references, steps=0), Album(20, 21, 22, 23)
    for number in seen:
        model(some_images(1, seed=number), [f"image_{number}.png"])
    images = torch.cat([some_images(1, seed=number) for number in batch])
    model(images, [f"image_{number}.png" for number in batch], album)
    assert album.asked == asked


def test_images_found_ahead_serve_as_references(tiny_clip, warned):
    model, image = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY), some_images(1)
    ahead = model(image, ["a.png"], Album(20, 21))
    expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    batch = torch.cat([image, some_images(1, seed=20), some_images(1, seed=21)])
    assert_same(ahead.anomaly_map[0], expected(batch).anomaly_map[0], 1e-5)
    assert not warned()


def test_images_found_ahead_fill_up_though_the_batch_was_seen_before(tiny_clip):
    model = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    first, second = some_images(1, seed=1), some_images(1, seed=2)
    model(first, ["image_1.png"])
    model(second, ["image_2.png"])
    # Images 1 and 2 are remembered; for image 2, one more is missing besides image 1.
    seen_again = model(second, ["image_2.png"], Album(20))
    expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY)
    batch = torch.cat([second, first, some_images(1, seed=20)])
    assert_same(seen_again.anomaly_map[0], expected(batch).anomaly_map[0], 1e-5)


@pytest.mark.parametrize("numbers", [[], [20]], ids=["nothing", "too little"])
def test_look_ahead_may_find_less_than_is_missing(tiny_clip, warned, numbers):
    predictions = build(tiny_clip, references=3)(some_images(1), ["a.png"], Album(*numbers))
    assert torch.isfinite(predictions.anomaly_map).all()
    assert len(warned()) == (0 if numbers else 1)


def test_image_found_ahead_may_have_another_size(tiny_clip):
    model, album = build(tiny_clip, steps=0, weights=VISUAL_ONLY), Album(20, size=(64, 96))
    predictions = model(some_images(1, (64, 96), seed=20)[..., :64], ["a.png"], album)
    # The image is a tile of its reference.
    assert_same(predictions.anomaly_map, torch.zeros(1, 64, 64), 1e-5)


# Odd images


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("temperature", [0.001, 0.01, 1.0])
@pytest.mark.parametrize("kind", ["identical", "black", "white"])
def test_odd_images_stay_finite(tiny_clip, kind, steps, temperature):
    images = {
        "identical": some_images(1).expand(4, -1, -1, -1),
        "black": normalized(torch.zeros(4, 3, TILE, TILE)),
        "white": normalized(torch.ones(4, 3, TILE, TILE)),
    }[kind]
    model = build(tiny_clip, steps=steps, temperature=temperature)
    predictions = model(images, names(4))
    assert torch.isfinite(predictions.pred_score).all()
    assert torch.isfinite(predictions.anomaly_map).all()
    assert predictions.anomaly_map.min() >= 0
    assert predictions.anomaly_map.max() <= PRIMES.map_maximum
    assert predictions.pred_score.max() <= PRIMES.score_maximum


def test_identical_images_have_no_visual_anomaly(tiny_clip):
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY)
    predictions = model(some_images(1).expand(4, -1, -1, -1), names(4))
    assert_same(predictions.anomaly_map, torch.zeros(4, TILE, TILE), 1e-5)
    assert_same(predictions.pred_score, torch.zeros(4), 1e-5)


def test_spot_on_one_image_is_where_the_map_is_hottest(tiny_clip):
    image = some_images(1, seed=4)
    spoilt = image.clone()
    spoilt[..., 16:32, 32:48] = normalized(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1))
    model = build(tiny_clip, steps=0, weights=VISUAL_ONLY, smooth=False)
    heat = model(torch.cat([spoilt, image]), names(2)).anomaly_map[0]
    y, x = divmod(heat.argmax().item(), TILE)
    # Bilinear maps peak at the patch's place on the 4x4 grid stretched over the image.
    assert math.hypot(y - 1 / 3 * (TILE - 1), x - 2 / 3 * (TILE - 1)) < PATCH / 2


# Golden images


def test_golden_images_are_references_in_any_aggregation(tiny_clip):
    golden = [some_images(1, seed=80), some_images(1, (64, 96), seed=81)]
    for aggregation in ("minimum", "lowest_third", "median"):
        model = build(tiny_clip, references=0, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        model.set_golden_images(golden)
        expected = build(tiny_clip, references=2, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        query, remembered = some_images(1), build(tiny_clip, references=0)
        for name, image in zip(names(2), golden, strict=True):
            expected.references.remember(remembered.encode(image).patches, [name])
        assert_same(model(query).anomaly_map, expected(query, ["query.png"]).anomaly_map, 1e-6)


def test_golden_tokens_are_a_buffer_of_their_size(tiny_clip):
    model = build(tiny_clip)
    assert model.golden_references.shape == (0, DIM)
    assert model.num_golden == 0
    model.set_golden_images([some_images(1), some_images(1, (64, 160))])
    patches = (TILE // PATCH) ** 2
    assert dict(model.named_buffers())["golden_references"].shape == (patches + 3 * patches, DIM)
    assert model.num_golden == 2
    model.set_golden_images([some_images(1)])
    assert model.golden_references.shape == (patches, DIM)
    model.set_golden_images([])
    assert model.golden_references.shape == (0, DIM)


def test_golden_images_outlast_a_reset_and_are_not_looked_ahead_for(tiny_clip, warned):
    model, album, image = build(tiny_clip, references=0, golden=1), Album(20), some_images(1)
    first = model(image, ["a.png"], album)
    model.reset()
    assert_identical(model(image, ["a.png"], album), first)
    lone = build(tiny_clip, references=1, golden=1)(image, ["a.png"])
    assert_identical(lone, first)
    assert not album.asked
    assert not warned()


@pytest.mark.parametrize("inference", [True, False], ids=["inference mode", "plain"])
@pytest.mark.parametrize("there_before", [0, 1, 3])
def test_golden_images_are_saved_and_restored_with_their_size(tiny_clip, tmp_path, inference, there_before):
    model = build(tiny_clip, aggregation="median")
    with torch.inference_mode(inference):
        model.set_golden_images([some_images(1, seed=80), some_images(1, (64, 96), seed=81)])
    assert not model.golden_references.is_inference()
    torch.save(nn.ModuleDict({"model": model}).state_dict(), tmp_path / "model.pt")
    restored = build(tiny_clip, aggregation="median", golden=there_before)
    nn.ModuleDict({"model": restored}).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(restored.golden_references, model.golden_references)
    assert restored.num_golden == 2
    assert_identical(restored(some_images(1)), model(some_images(1)))


def test_checkpoint_from_before_there_were_golden_images_can_be_loaded(tiny_clip):
    old = {name: value for name, value in build(tiny_clip).state_dict().items() if "golden" not in name}
    model = build(tiny_clip, golden=1)
    model.load_state_dict({name: value for name, value in old.items() if "extra" not in name})
    assert model.num_golden == 1


def test_golden_images_of_another_width_are_refused(tiny_clip):
    weights = build(tiny_clip, golden=1).state_dict()
    weights["golden_references"] = weights["golden_references"][:, 1:]
    with pytest.raises(RuntimeError, match="size mismatch for golden_references"):
        build(tiny_clip).load_state_dict(weights)


# Several references


def test_one_partner_with_the_same_defect_does_not_hide_it_from_the_median(tiny_clip):
    good = some_images(1, seed=4)
    spoilt = good.clone()
    spoilt[..., 16:32, 32:48] = normalized(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1))
    batch = torch.cat([spoilt, spoilt, good, good])

    def peak(aggregation: str) -> float:
        model = build(tiny_clip, references=3, steps=0, weights=VISUAL_ONLY, aggregation=aggregation)
        return model(batch).anomaly_map[0].max().item()

    assert peak("minimum") < 1e-5
    assert peak("median") > 0.01


def test_unknown_aggregation_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"aggregation='mean' is unknown; choose one of 'minimum', "):
        build(tiny_clip, aggregation="mean")
