import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dual_image_clip.method import PseudoAnomalyGenerator, covered_patches, patch_share
from dual_image_clip.method.pseudo_anomaly import perlin_masks
from tests.helpers import assert_same, uniform

patient = settings(deadline=None)
# 14 and 16 pixels are the smallest patches, and thereby images, of the usual towers.
SIZES = [(14, 14), (16, 16), (17, 31), (32, 32), (33, 97), (64, 64), (64, 96), (101, 57)]
RED, GREEN, BLUE, CYAN, GREY = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0.5, 0.5, 0.5)


def noise_images(count: int = 4, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    return uniform(count, 3, *size, seed=seed)


def plain_images(colour: tuple[float, float, float], count: int = 16) -> Tensor:
    return torch.tensor(colour, dtype=torch.float).view(1, 3, 1, 1).expand(count, 3, 64, 64).contiguous()


def save_texture(colour: tuple[float, float, float], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((40, 56, 3), [255 * value for value in colour], dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.parent


# Masks


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_are_binary_and_never_empty(size):
    torch.manual_seed(0)
    masks = torch.cat([perlin_masks(50, size) for _ in range(10)])
    assert masks.shape == (500, 1, *size)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.flatten(1).any(dim=1).all()
    # Something normal is left for the eye to compare with.
    assert not masks.flatten(1).all(dim=1).any()


def test_masks_differ_in_shape_and_place():
    torch.manual_seed(0)
    masks = perlin_masks(20, (64, 64)).flatten(1)
    assert len(masks.unique(dim=0)) == 20
    assert (masks.mean(dim=0) > 0).float().mean() > 0.25


# Copies


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_copies_are_changed_inside_the_mask_only(size, count):
    generator = PseudoAnomalyGenerator(seed=1)
    for round_ in range(5):
        images = noise_images(count, size, seed=round_)
        copies, masks = generator(images)
        assert copies.shape == images.shape
        assert masks.shape == (count, 1, *size)
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        inside = masks.expand_as(images).bool()
        assert torch.equal(copies[~inside], images[~inside])
        for image, copy, covered in zip(images, copies, inside, strict=True):
            assert (image[covered] != copy[covered]).float().mean() > 0.5
        assert copies.min() >= 0
        assert copies.max() <= 1


def test_input_is_left_as_it_was():
    images = noise_images()
    before = images.clone()
    PseudoAnomalyGenerator(seed=0)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("with_textures", [True, False], ids=["textures", "own texture"])
def test_copies_repeat_after_reset_and_differ_before(with_textures, tmp_path):
    folder = None
    if with_textures:
        for index, colour in enumerate([RED, GREEN, BLUE, GREY]):
            folder = save_texture(colour, tmp_path / f"{index}.png")
    generator = PseudoAnomalyGenerator(folder, seed=7)
    first = [generator(noise_images()) for _ in range(3)]
    torch.manual_seed(99)
    generator.reset()
    again = [generator(noise_images()) for _ in range(3)]
    other = PseudoAnomalyGenerator(folder, seed=8)(noise_images())
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.masks, two.masks)
    assert not torch.equal(first[0].masks, first[1].masks)
    assert not torch.equal(first[0].masks, other.masks)


def test_images_of_a_batch_are_corrupted_each_in_its_own_way():
    images = noise_images(1).expand(8, -1, -1, -1)
    copies, masks = PseudoAnomalyGenerator(seed=0)(images)
    assert len(masks.flatten(1).unique(dim=0)) == 8
    assert len(copies.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("with_textures", [True, False], ids=["textures", "own texture"])
def test_global_randomness_is_left_alone(with_textures, tmp_path):
    folder = save_texture(RED, tmp_path / "red.png") if with_textures else None
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    generator = PseudoAnomalyGenerator(folder, seed=0)
    generator(noise_images())
    generator.reset()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_copies_have_the_type_of_the_images_and_no_graph(dtype, mode):
    with mode():
        copies, masks = PseudoAnomalyGenerator(seed=0)(noise_images().to(dtype))
    assert copies.dtype == masks.dtype == dtype
    assert torch.isfinite(copies).all()
    assert not copies.requires_grad


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_plain_images_work(value):
    copies, masks = PseudoAnomalyGenerator(seed=0)(torch.full((6, 3, 64, 64), value))
    assert torch.isfinite(copies).all()
    assert ((copies >= 0) & (copies <= 1)).all()
    assert masks.flatten(1).any(dim=1).all()
    assert (copies.where(masks == 0, value) == value).all()


@pytest.mark.parametrize("with_textures", [True, False], ids=["textures", "own texture"])
def test_batch_may_be_corrupted_in_portions(with_textures, tmp_path):
    for name, colour in {"r": RED, "g": GREEN, "b": BLUE}.items():
        save_texture(colour, tmp_path / f"{name}.png")
    folder = tmp_path if with_textures else None
    # Four, as there are steps of a change of colours, and as images have dimensions.
    images = noise_images(4, (64, 97))
    copies, masks = PseudoAnomalyGenerator(folder, seed=2)(images)
    drawn = PseudoAnomalyGenerator(folder, seed=2).draw(4, (64, 97))
    for rows in (slice(3, 4), slice(0, 3)):
        portion = drawn(images[rows], rows)
        assert torch.equal(portion.masks, masks[rows])
        assert_same(portion.images, copies[rows], 1e-6)


# Textures


def mean_inside(images: Tensor, masks: Tensor) -> Tensor:
    """Mean colour within the mask of each image, ``(B, 3)``."""
    return (images * masks).sum(dim=(-2, -1)) / masks.sum(dim=(-2, -1))


@pytest.mark.parametrize(
    ("texture", "image"), [(RED, CYAN), (GREEN, GREY), (BLUE, GREY), (RED, (0, 0, 0))], ids=["r", "g", "b", "on black"]
)
def test_corrupted_pixels_move_towards_the_texture(texture, image, tmp_path):
    folder = save_texture(texture, tmp_path / "textures" / "deeper" / "plain.png").parent
    images = plain_images(image)
    copies, masks = PseudoAnomalyGenerator(folder, seed=0)(images)
    # On average, as a texture's colours are changed, too.
    change = (mean_inside(copies, masks) - torch.tensor(image)).mean(dim=0)
    direction = torch.tensor(texture, dtype=torch.float) - torch.tensor(image)
    assert torch.cosine_similarity(change, direction, dim=0) > 0.8


def test_all_textures_of_a_folder_are_used(tmp_path):
    for name, colour in {"r": RED, "g": GREEN, "b": BLUE}.items():
        save_texture(colour, tmp_path / f"{name}.png")
    images = plain_images(GREY, count=40)
    copies, masks = PseudoAnomalyGenerator(tmp_path, seed=0)(images)
    assert set(mean_inside(copies, masks).argmax(dim=1).tolist()) == {0, 1, 2}


def test_own_texture_brings_in_no_foreign_colour():
    images = plain_images(CYAN)
    copies, masks = PseudoAnomalyGenerator(seed=0)(images)
    red, green, blue = mean_inside(copies, masks).unbind(dim=1)
    assert (red < green).all()
    assert (red < blue).all()


@pytest.mark.parametrize("kind", ["grey", "rgba", "palette"])
def test_textures_may_be_of_any_mode(kind, tmp_path):
    mode = {"grey": "L", "rgba": "RGBA", "palette": "P"}[kind]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)).convert(mode).save(
        tmp_path / "texture.png"
    )
    images = noise_images()
    copies, masks = PseudoAnomalyGenerator(tmp_path, seed=0)(images)
    assert copies.shape == images.shape
    assert torch.equal(copies.where(masks == 0, 0), images.where(masks == 0, 0))


@pytest.mark.parametrize("content", ["nothing", "no images"])
def test_folder_without_textures_is_named(content, tmp_path):
    folder = tmp_path / "my textures"
    folder.mkdir()
    if content == "no images":
        (folder / "readme.txt").write_text("none here")
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        PseudoAnomalyGenerator(folder)


def test_missing_texture_folder_is_refused(tmp_path):
    with pytest.raises((ValueError, OSError)):
        PseudoAnomalyGenerator(tmp_path / "nowhere")


# Patches


@pytest.mark.parametrize(
    ("size", "patch"), [((8, 8), (4, 4)), ((6, 9), (2, 3)), ((32, 16), (16, 16)), ((4, 10), (1, 5))]
)
def test_patch_share_equals_a_loop(size, patch):
    masks = (noise_images(3, size)[:, :1] > 0.6).float()
    shares = patch_share(masks, patch)
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    assert shares.shape == (3, rows, columns)
    for image in range(3):
        for y in range(rows):
            for x in range(columns):
                pixels = [
                    masks[image, 0, y * patch[0] + dy, x * patch[1] + dx].item()
                    for dy in range(patch[0])
                    for dx in range(patch[1])
                ]
                assert shares[image, y, x].item() == pytest.approx(sum(pixels) / len(pixels), abs=1e-6)


@patient
@given(st.lists(st.lists(st.integers(0, 256), min_size=6, max_size=6), min_size=1, max_size=4))
def test_covered_patches_equal_a_loop(pixels):
    shares = torch.tensor(pixels, dtype=torch.float) / 256
    covered = covered_patches(shares)
    assert covered.dtype == torch.bool
    assert covered.any(dim=1).all()
    for of_image, flags in zip(shares.tolist(), covered.tolist(), strict=True):
        by_half = [share >= 0.5 for share in of_image]
        most = [share == max(of_image) for share in of_image]
        assert flags == (by_half if any(by_half) else most)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.0, 0.49, 0.5, 1.0], [False, False, True, True]),
        ([0.0, 0.1, 0.3, 0.2], [False, False, True, False]),
        ([0.3, 0.0, 0.3, 0.2], [True, False, True, False]),
        ([1.0, 1.0, 1.0, 1.0], [True, True, True, True]),
    ],
)
def test_covered_patches_by_example(shares, expected):
    assert covered_patches(torch.tensor([shares])).tolist() == [expected]


def test_every_image_has_its_own_rule():
    shares = torch.tensor([[0.2, 0.1], [0.9, 0.2]])
    assert covered_patches(shares).tolist() == [[True, False], [True, False]]
