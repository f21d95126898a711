"""What scores the sets: settings of the detector, the same detector untrained, and two ways that learn nothing."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from scipy.fft import dctn

from benchmarks.checkpoint.sets import KNOWN_GOOD
from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.images import CategoryImages
from benchmarks.paper.methods import score
from benchmarks.paper.peers.scores import Scores
from benchmarks.paper.plan import OURS, Setting
from dual_image_clip.method import random_partners, upsample_map
from dual_image_clip.weights import Backbone, load_backbone

BATCH_SIZE = 20
SEED = 0
MANY_REFERENCES = 8
DCT_SIZE = 8

_without_adaptation = partial(Setting, OURS, adaptation_steps=0)
_visual = partial(_without_adaptation, lambda_2=0.0, lambda_3=0.0, lambda_5=0.0)
SETTINGS = {
    "text": _without_adaptation(num_references=0, lambda_1=0.0, lambda_4=0.0),
    "visual": _visual(),
    "joint": _without_adaptation(),
    "joint, adapted": Setting(OURS),
    f"visual, {MANY_REFERENCES} references": _visual(num_references=MANY_REFERENCES),
    f"joint, {MANY_REFERENCES} references": _without_adaptation(num_references=MANY_REFERENCES),
    f"visual, {KNOWN_GOOD} known-good": _visual(num_references=0, k_shot=KNOWN_GOOD),
    f"joint, {KNOWN_GOOD} known-good": _without_adaptation(num_references=0, k_shot=KNOWN_GOOD),
    f"joint, {KNOWN_GOOD} known-good, adapted": Setting(OURS, num_references=0, k_shot=KNOWN_GOOD),
}
UNTRAINED = ("text", "visual", "joint")


class Scorers(NamedTuple):
    """All that a category is scored with.

    Attributes:
        trained: The model.
        settings: Names of the :data:`SETTINGS` that it is run with.
        untrained: The same architecture with random weights; ``None`` leaves out whatever is no trained detector.
    """

    trained: Backbone
    settings: Sequence[str]
    untrained: Backbone | None

    def scores(self, category: CategoryImages) -> Iterator[tuple[str, Scores]]:
        """Scores a category.

        Args:
            category: Its images.

        Yields:
            Name of a scorer, and its scores of images and pixels.
        """
        yield from _detector_scores(self.trained, category, self.settings)
        if self.untrained is not None:
            for name, scores in _detector_scores(self.untrained, category, UNTRAINED):
                yield f"untrained, {name}", scores
            yield "nearest neighbour of DCT patches", dct_scores(category)
            yield "darkness", darkness_scores(category)


def _detector_scores(
    backbone: Backbone, category: CategoryImages, settings: Sequence[str]
) -> Iterator[tuple[str, Scores]]:
    features = features_of(category, backbone)
    return ((name, score(features, SETTINGS[name], SEED)) for name in settings)


def features_of(category: CategoryImages, backbone: Backbone) -> CategoryFeatures:
    """What a backbone makes of a category, whose golden images are those known to be good."""
    known_good: Any = category.known_good
    return CategoryFeatures(category, backbone, BATCH_SIZE, load_golden_images=lambda count, _: known_good[:count])


def untrained_backbone(backbone: str) -> Backbone:
    """An architecture with random weights, always the same."""
    torch.manual_seed(SEED)
    return load_backbone(backbone, None)


def dct_scores(category: CategoryImages, patch: int = 16) -> Scores:
    """Distance of each patch's lowest cosine frequencies to the nearest patch of another image.

    Args:
        category: The images.
        patch: Side of a patch in pixels.

    Returns:
        Scores of images and pixels.
    """
    grey = category.images.mean(dim=1)
    patches = grey.unfold(1, patch, patch).unfold(2, patch, patch)
    frequencies = dctn(patches.numpy(), axes=(3, 4), norm="ortho")[..., :DCT_SIZE, :DCT_SIZE]
    tokens = torch.from_numpy(frequencies.reshape(len(grey), -1, DCT_SIZE**2))
    partners = random_partners(len(grey), 1, torch.Generator().manual_seed(SEED))[:, 0]
    distances = torch.cdist(tokens, tokens[partners]).amin(dim=2).unflatten(1, patches.shape[1:3])
    return Scores(distances.amax(dim=(1, 2)), upsample_map(distances, (grey.shape[1], grey.shape[2])))


def darkness_scores(category: CategoryImages) -> Scores:
    """How dark an image is, and each of its pixels."""
    darkness = 1 - category.images.mean(dim=1)
    return Scores(darkness.mean(dim=(1, 2)), darkness)
