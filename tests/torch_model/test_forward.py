"""The whole forward against the paper's equations, word by word, and batches against single images."""

from statistics import mean, median

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from dual_image_clip.method import PseudoAnomalies, PseudoAnomalyGenerator, ReferencePool, ScoreWeights, initial_adapter
from tests.helpers import assert_same, seeded, unit_vectors
from tests.torch_model.tiny import (
    DIM,
    MEAN,
    PATCH,
    SEED,
    STD,
    TEMPERATURE,
    TILE,
    VISUAL_ONLY,
    build,
    names,
    some_images,
)


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
    start = initial_adapter(DIM, seeded(SEED))
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
        highest = max(1, int(w.peak_share * len(text)))
        largest = [sorted(each.tolist(), reverse=True)[:highest] for each in (visual, text)]
        score = w.lambda_3 * class_score + w.lambda_4 * mean(largest[0]) + w.lambda_5 * mean(largest[1])
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
    "three references, peaks of half the patches": {
        "references": 3,
        "steps": 0,
        "weights": ScoreWeights(peak_share=0.5),
    },
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
    assert_same(predictions.anomaly_map, torch.tensor(np.stack(maps)).float(), 1e-4)
    # Images and places differ, so that agreement says something.
    assert predictions.pred_score.std() > 1e-3
    assert predictions.anomaly_map.flatten(1).std(dim=1).min() > 1e-3


def test_every_setting_scores_differently(tiny_clip):
    maps = [build(tiny_clip, **settings)(some_images(5)).anomaly_map for settings in SETTINGS.values()]
    for index, one in enumerate(maps):
        for other in maps[:index]:
            assert not torch.allclose(one, other, atol=1e-3)


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

    def draw(self, count: int, size: tuple[int, int]):
        assert (count, 3, *size) == self.copies.images.shape
        return lambda _images, rows: PseudoAnomalies(*(each[rows] for each in self.copies))

    def reset(self) -> None:
        pass


@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=str)
def test_batch_is_adapted_as_its_images_one_at_a_time(tiny_clip, size):
    images, count = some_images(5, size), 5
    model = build(tiny_clip, steps=2)
    references = unit_vectors(count, 20, DIM, seed=5)
    copies, masks = PseudoAnomalyGenerator(None, 5)((images * torch.tensor(STD).view(3, 1, 1)).clamp(0, 1))

    def score(rows: slice):
        model.references = FixedReferences(references[rows])
        model.pseudo_anomalies = FixedPseudoAnomalies(PseudoAnomalies(copies[rows], masks[rows]))
        return model(images[rows], names(count)[rows])

    together = score(slice(None))
    for index in range(count):
        alone = score(slice(index, index + 1))
        assert_same(together.pred_score[index], alone.pred_score[0], 1e-4)
        assert_same(together.anomaly_map[index], alone.anomaly_map[0], 1e-4)


def test_adapter_is_fresh_for_every_image(tiny_clip):
    model, image = build(tiny_clip, references=0, steps=5), some_images(1)
    first = model(image)
    model(some_images(4, seed=9))
    model.reset()
    assert_same(model(image), first, 0)
