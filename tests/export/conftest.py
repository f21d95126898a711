"""Images to take textures from, and a model that must not work."""

import pytest
from PIL import Image

from dual_image_clip import DualImageCLIP
from tests.helpers import cloudy_images


@pytest.fixture
def textures(tmp_path):
    """A folder of three textures."""
    for index in range(3):
        pixels = (255 * cloudy_images(1, (50, 70), 50 + index)[0].permute(1, 2, 0)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.fixture
def no_work(monkeypatch):
    """Makes a model fail where it starts to work, from the moment this is called."""

    def refuse(*args, **kwargs):
        raise AssertionError

    def forbid():
        for name in ("_encode_class_name", "load_golden_images"):
            monkeypatch.setattr(DualImageCLIP, name, refuse)

    return forbid
