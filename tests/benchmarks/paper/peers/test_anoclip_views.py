import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry.transform import rotate
from scipy.ndimage import map_coordinates
from torch import Tensor

from benchmarks.paper.peers.anoclip_views import NUM_VIEWS, views
from tests.helpers import random_images

SIZE = 21


def literal_resampling(image: Tensor, matrix: list[list[float]], offset: tuple[float, float]) -> np.ndarray:
    """Where each output pixel comes from, in scipy's hands; (x, y) run from -1 to 1 over the pixels' centres."""
    half = (image.shape[-1] - 1) / 2
    rows, columns = np.mgrid[: image.shape[-2], : image.shape[-1]]
    x, y = columns / half - 1, rows / half - 1
    from_x = matrix[0][0] * x + matrix[0][1] * y + offset[0]
    from_y = matrix[1][0] * x + matrix[1][1] * y + offset[1]
    places = np.array([(from_y + 1) * half, (from_x + 1) * half])
    return np.stack([map_coordinates(channel.numpy(), places, order=1, mode="mirror") for channel in image])


def literal_views(image: Tensor) -> list[np.ndarray]:
    """What the published code makes, in its order."""
    made = [image.numpy()]
    for sixteenths in (-4, -3, -2, -1, 1, 2, 3, 4):
        angle = sixteenths * math.pi / 16
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        made.append(literal_resampling(image, turn, (0, 0)))
    for size in (0.2, 0.1):
        for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
            made.append(literal_resampling(image, [[1, 0], [0, 1]], (size * x, size * y)))
    made.append(image.numpy()[:, :, ::-1])
    red, green, blue = image.numpy()
    made.append(np.stack([0.299 * red + 0.587 * green + 0.114 * blue] * 3))
    made += [
        rotate(image.unsqueeze(0), torch.tensor(angle), padding_mode="reflection")[0].numpy()
        for angle in (90.0, 180.0, 270.0)
    ]
    return made


def distance_to(view: np.ndarray, others: Tensor) -> float:
    return min(float(np.abs(view - other.numpy()).max()) for other in others)


def test_there_are_the_22_views_of_the_published_code():
    images = random_images(2, 3, SIZE, SIZE)
    made = views(images)
    assert made.shape == (2, 22, 3, SIZE, SIZE)
    assert NUM_VIEWS == 22
    for image, ours in zip(images, made, strict=True):
        theirs = literal_views(image)
        assert len(theirs) == 22
        assert max(distance_to(view, ours) for view in theirs) < 1e-3
        assert max(distance_to(view.numpy(), torch.from_numpy(np.stack(theirs))) for view in ours) < 1e-3


def test_the_image_itself_comes_first():
    images = random_images(2, 3, SIZE, SIZE)
    assert torch.equal(views(images)[:, 0], images)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_views_show_nothing_that_is_not_in_the_image(size, seed):
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    made = views(image)
    assert made.min() >= image.min() - 1e-5
    assert made.max() <= image.max() + 1e-5
    grey = torch.full((1, 3, size, size), 0.25)
    torch.testing.assert_close(views(grey), grey.unsqueeze(1).expand(-1, 22, -1, -1, -1))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 8, 9), (1, 1, 8, 8)])
def test_images_that_are_not_square_or_coloured_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, S, S\)"):
        views(torch.zeros(shape))
