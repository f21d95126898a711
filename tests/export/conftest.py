"""Images to take textures from."""

import pytest
from PIL import Image

from tests.helpers import cloudy_images


@pytest.fixture
def textures(tmp_path):
    """A folder of three textures."""
    for index in range(3):
        pixels = (255 * cloudy_images(1, (50, 70), 50 + index)[0].permute(1, 2, 0)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path
