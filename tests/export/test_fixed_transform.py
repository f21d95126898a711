import pytest
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from dual_image_clip.export.fixed_transform import FixedResize, fixed_transform
from tests.helpers import assert_same, cloudy_images


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (150, 100), (20, 33), (300, 280)])
@pytest.mark.parametrize(
    "transform",
    [
        Resize(64, antialias=True),
        Resize((48, 80), antialias=False),
        Resize(64, interpolation=InterpolationMode.BICUBIC, antialias=True),
        Compose([Compose([Resize((80, 90)), CenterCrop((70, 64))]), Resize(32), Normalize([0.4] * 3, [0.2, 0.3, 0.4])]),
    ],
    ids=["short side", "both sides", "bicubic", "nested"],
)
def test_fixed_transform_does_what_the_transform_does(transform, size):
    images = cloudy_images(2, size)
    assert_same(fixed_transform(transform, size)(images), transform(images))


def test_fixed_transform_leaves_out_what_does_nothing():
    assert not any(isinstance(step, FixedResize) for step in fixed_transform(Resize(64), (64, 64)))
    images = cloudy_images(1)
    assert fixed_transform(None, (64, 64))(images) is images
