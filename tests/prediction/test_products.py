"""Several products in one outcome."""

import torch

from dual_image_clip.photos import UnusableFile
from dual_image_clip.prediction import Outcome, Prediction, make_sketch, put_together, settings_together

SKETCH = make_sketch(torch.rand(3, 32, 32), torch.rand(32, 32))


def outcome(product, *scores, threshold, unusable=(), total):
    found = [Prediction(f"{product}/{score}.png", score, "normal", 1, SKETCH, product=product) for score in scores]
    return Outcome(found, {product: threshold}, list(unusable), total)


def test_images_stay_with_their_product_and_its_threshold():
    broken, loose = UnusableFile("nut/a.png", "is empty"), UnusableFile("b.png", "lies beside")
    parts = {
        "nut": outcome("nut", 0.4, 0.1, threshold=0.3, unusable=[broken], total=3),
        "bolt": outcome("bolt", 0.9, threshold=None, total=5),
    }
    whole = put_together(parts, [loose], left_out=7)
    assert [each.path for each in whole.predictions] == ["nut/0.4.png", "nut/0.1.png", "bolt/0.9.png"]
    assert [whole.threshold_of(each) for each in whole.predictions] == [0.3, 0.3, None]
    assert whole.threshold is None
    assert whole.unusable == [loose, broken]
    # Four of the second product, and a product of seven
    assert whole.num_left_out == 11


def test_settings_that_differ_are_told_for_each_product():
    settings = {"nut": {"seed": "0", "regions": "a.png"}, "bolt": {"seed": "0", "regions": "b.png"}}
    assert settings_together(settings) == {"seed": "0", "regions": "nut: a.png; bolt: b.png"}
    assert settings_together({}) == {}
