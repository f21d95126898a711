"""The steps past the paper, each alone and together, and beside them what was tried and left out."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from benchmarks.checkpoint.scorers import darkness_scores
from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.methods import adapt, draw_partners, language_map, reference_map, score
from benchmarks.paper.peers import musc
from benchmarks.paper.peers.scores import Scores
from benchmarks.paper.plan import OURS, Setting
from benchmarks.steps.tried import (
    block_tokens,
    mean_map,
    neighbourhood_means,
    smoothed,
    visual_map,
    without_anomalous,
)
from dual_image_clip import BEST
from dual_image_clip.method import fuse

BASE_ROW = "Ours"
LEFT_OUT = 0.1

_base = partial(Setting, OURS, adaptation_steps=0, lambda_2=1.0)
_best = partial(Setting, OURS, **BEST)

SETTINGS = {
    "Ours+": Setting(OURS),
    BASE_ROW: _base(),
    "8 references": _base(num_references=8),
    "8 references, lowest third": _base(num_references=8, aggregation="lowest_third"),
    "mean of the highest 2 %": _base(peak_share=BEST["peak_share"]),
    "Best": _best(),
    "Best, nearest of all references": _best(aggregation="minimum"),
    "Best, adapted": _best(adaptation_steps=2, lambda_2=1.5),
    "Best, adapted at a rate of 3e-4": _best(adaptation_steps=2, lambda_2=1.5, learning_rate=3e-4),
    "Best, visual alone": _best(lambda_2=0.0, lambda_3=0.0, lambda_5=0.0),
    "Ours, 8 known-good": _base(num_references=0, k_shot=8),
    "Best, 8 known-good": _best(num_references=0, k_shot=8),
    "MuSc-2": Setting("musc2"),
    "MuSc, all images": Setting("musc"),
}
"""What the detector and its peers can do."""

Row = Callable[[CategoryFeatures, int], Scores]
"""Scores a category; the other argument is the seed of all that is random."""


def _as_row(setting: Setting) -> Row:
    return lambda features, seed: score(features, setting, seed)


def with_up_to(num_references: int, features: CategoryFeatures, seed: int) -> Scores:
    """The preset with more references, or with all other images where there are fewer."""
    return score(features, _best(num_references=min(num_references, len(features) - 1)), seed)


def smoothed_before_the_maximum(features: CategoryFeatures, seed: int) -> Scores:
    """The preset with the 3×3 mean before the maximum, in place of the mean of the highest scores."""
    setting = _best(peak_share=0.0)
    maps = reference_map(features, setting, seed), language_map(features)
    return _fused(features, setting, *maps)._replace(
        images=_fused(features, setting, *(smoothed(each) for each in maps if each is not None)).images
    )


def neighbourhoods(sides: Sequence[int], features: CategoryFeatures, seed: int) -> Scores:
    """The preset with maps of several neighbourhoods averaged."""
    tokens = features.two_paths.patch_tokens
    return _compared(features, seed, [neighbourhood_means(tokens, side) for side in sides])


def depths(layers: Sequence[int], features: CategoryFeatures, seed: int) -> Scores:
    """The preset with maps of ordinary tokens behind some of MuSc's four blocks averaged with that of the V-V path."""
    behind = features.ordinary.layer_tokens
    earlier = [block_tokens(behind[:, layer]) for layer in layers]
    return _compared(features, seed, [*earlier, features.two_paths.patch_tokens])


def patches_left_out(features: CategoryFeatures, seed: int) -> Scores:
    """The preset without those patches of references that the text finds most anomalous."""
    setting, tokens = _best(), features.two_paths.patch_tokens
    references = without_anomalous(tokens, language_map(features), LEFT_OUT)
    partners = draw_partners(features.category.labels, setting, seed)
    compared = visual_map(tokens, references, partners, setting.aggregation)
    return _fused(features, setting, compared, language_map(features))


def rescored(features: CategoryFeatures, seed: int) -> Scores:
    """The preset with scores averaged over the images that look alike, among all of the set (RsCIN)."""
    scores = score(features, _best(), seed)
    return scores._replace(images=musc.rescore(scores.images, features.two_paths.class_token[:, 0]))


def adapted_from_zero(rate: float, features: CategoryFeatures, seed: int) -> Scores:
    """The preset with an adaptation whose adapter starts at zero, which is the token itself."""
    setting = _best(adaptation_steps=2, lambda_2=1.5, learning_rate=rate)
    model = features.model(setting, seed)
    model.adapter_weight.zero_()
    model.adapter_bias.zero_()
    adapted = adapt(model, features, setting, seed)
    return _fused(features, setting, reference_map(features, setting, seed), adapted)


def _compared(features: CategoryFeatures, seed: int, versions: Sequence[Tensor]) -> Scores:
    """The preset with the mean of the maps of several versions of the patch tokens."""
    setting = _best()
    partners = draw_partners(features.category.labels, setting, seed)
    maps = [visual_map(tokens, tokens, partners, setting.aggregation) for tokens in versions]
    return _fused(features, setting, mean_map(maps), language_map(features))


def _fused(features: CategoryFeatures, setting: Setting, compared: Tensor | None, text_map: Tensor) -> Scores:
    class_scores = features.model(setting, 0).text_score(features.two_paths.class_token)
    fused = fuse(class_scores, compared, text_map, setting.weights, features.layout)
    return Scores(fused.images, fused.pixels)


ROWS: dict[str, Row] = {
    **{name: _as_row(setting) for name, setting in SETTINGS.items()},
    "Best, up to 64 references": partial(with_up_to, 64),
    "Best, 3×3 mean before the maximum": smoothed_before_the_maximum,
    "Best, neighbourhoods 1, 3": partial(neighbourhoods, (1, 3)),
    "Best, neighbourhoods 1, 3, 5": partial(neighbourhoods, (1, 3, 5)),
    "Best, two depths": partial(depths, (1,)),
    "Best, three depths": partial(depths, (1, 2)),
    "Best, anomalous patches left out": patches_left_out,
    "Best, RsCIN over all images": rescored,
    "Best, adapted from zero": partial(adapted_from_zero, 1e-3),
    "Best, adapted from zero at a rate of 3e-4": partial(adapted_from_zero, 3e-4),
    "darkness": lambda features, _: darkness_scores(features.category),
}
"""All that is measured, by name."""
