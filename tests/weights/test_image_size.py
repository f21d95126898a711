"""The resolution that a backbone is to be given: refused before there are weights, or taken."""

import open_clip
import pytest

from dual_image_clip.weights import EMBEDDED, load_backbone
from tests.helpers import TINY

pytestmark = pytest.mark.open_clip

REAL = "ViT-B-16-plus-240"


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an architecture is built, nor are weights looked for."""

    def fail(*_arguments, **_options):
        pytest.fail("work was done")

    monkeypatch.setattr(open_clip, "create_model", fail)
    for name in ("download_pretrained_from_url", "load_weights", "_find_weights"):
        monkeypatch.setattr(f"dual_image_clip.weights.backbone.{name}", fail)


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize(
    ("backbone", "image_size", "patch", "allowed"),
    [
        (REAL, 250, 16, "240 or 256"),
        (REAL, 479, 16, "464 or 480"),
        (REAL, 8, 16, "16"),
        (REAL, 0, 16, "240"),
        (REAL, -240, 16, "240"),
        (REAL, 250.5, 16, "240 or 256"),
        (REAL, 480.0, 16, "480 or 496"),
        (REAL, float("nan"), 16, "240"),
        (REAL, "480", 16, "240"),
        (REAL, (480, 480), 16, "240"),
        (REAL, True, 16, "16"),
        ("ViT-L-14", 240, 14, "238 or 252"),
        ("ViT-B-32", 240, 32, "224 or 256"),
    ],
    ids=str,
)
def test_what_is_no_multiple_of_the_patch_size(backbone, image_size, patch, allowed):
    with pytest.raises(ValueError, match="image_size") as caught:
        load_backbone(backbone, "laion400m_e32", image_size)
    assert str(caught.value) == (
        f"image_size must be a whole multiple of {patch}, the patch size of {backbone}, got {image_size!r}: "
        f"set it to {allowed}, or leave it out"
    )


@pytest.mark.usefixtures("_no_work")
def test_the_embedded_checkpoint_has_its_own_patch_size_whatever_the_backbone():
    with pytest.raises(ValueError, match=f"multiple of 16, the patch size of {EMBEDDED}, got 252"):
        load_backbone("ViT-L-14", EMBEDDED, 252)


@pytest.mark.parametrize("image_size", [16, 64, 96, 480])
def test_multiples_are_taken(image_size):
    assert load_backbone(TINY, None, image_size).image_size == (image_size, image_size)


def test_a_tower_without_patches_is_refused_as_one():
    with pytest.raises(TypeError, match="ModifiedResNet"):
        load_backbone("RN50", None, 250)
