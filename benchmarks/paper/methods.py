"""From a setting to scores: our method and its peers, on features that are encoded once."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.paper.features import CategoryFeatures
from benchmarks.paper.peers import anoclip, clip, musc, winclip
from benchmarks.paper.peers.scores import Scores
from benchmarks.paper.plan import OURS, Setting
from dual_image_clip.method import joint_anomaly_map, merge_tiles, random_partners
from dual_image_clip.torch_model import DualImageCLIPModel, PseudoAnomalousCopies

_AT_ONCE = 16


def depends_on_seed(setting: Setting) -> bool:
    """Whether another seed gives other scores."""
    if setting.method == OURS:
        return bool(setting.num_references or setting.k_shot or setting.adaptation_steps)
    return setting.method == "musc2" or (setting.method == "anoclip" and setting.adaptation_steps > 0)


@torch.inference_mode()
def score(features: CategoryFeatures, setting: Setting, seed: int) -> Scores:
    """Scores the images of a category.

    Args:
        features: The images.
        setting: How.
        seed: Seed of all that is random.

    Returns:
        Scores of images ``(N,)`` and pixels ``(N, H, W)``. Peers score every tile of an image for itself; its image
        score is then the mean of its tiles, as for our class token.

    Raises:
        ValueError: The category has not as many images as the setting needs.
    """
    if setting.method == OURS:
        return _score_ours(features, setting, seed)
    tiles = _score_tiles(features, setting, seed)
    images = tiles.images.unflatten(0, (-1, features.layout.num_tiles)).mean(dim=1)
    return Scores(images, merge_tiles(tiles.maps, features.layout))


def _score_tiles(features: CategoryFeatures, setting: Setting, seed: int) -> Scores:
    temperature, size = features.backbone.temperature, features.layout.tile_size
    if setting.method == "clip":
        tokens = features.ordinary
        return clip.score(tokens.class_token, tokens.patch_tokens, features.text, temperature, size)
    if setting.method == "winclip":
        return winclip.score(*features.windows)
    if setting.method == "anoclip":
        return anoclip.score(
            features.views,
            features.long_patch_tokens,
            features.text,
            temperature,
            size,
            features.prompts if setting.adaptation_steps else None,
            setting.adaptation_steps,
            seed=seed,
        )
    if setting.method == "musc":
        return musc.score_set(features.ordinary.layer_tokens, features.ordinary.class_token, size)
    # Tiles are compared with the same tile of the partner.
    partners = random_partners(len(features), 1, torch.Generator().manual_seed(seed))
    count = features.layout.num_tiles
    tiles = (partners * count).unsqueeze(1) + torch.arange(count).view(1, -1, 1)
    return musc.score_pairs(features.ordinary.layer_tokens, tiles.flatten(0, 1), size)


def _score_ours(features: CategoryFeatures, setting: Setting, seed: int) -> Scores:
    visual_map = reference_map(features, setting, seed)
    text_map = adapted_map(features, setting, seed) if setting.adaptation_steps else language_map(features)
    model = features.model(setting, seed)
    fused = model.fuse(features.two_paths.class_token, visual_map, text_map, features.layout)
    return Scores(fused.images, fused.pixels)


def language_map(features: CategoryFeatures) -> Tensor:
    """A^L of every image (Eq. 2–3), ``(N, T · h, w)``."""
    return features.memo("A^L", lambda: features.model(Setting(OURS), 0).text_score(features.two_paths.patch_tokens))


def reference_map(features: CategoryFeatures, setting: Setting, seed: int) -> Tensor | None:
    """A^V of every image against its references (Eq. 5), ``(N, T · h, w)``, or ``None`` where there are none."""
    if not setting.num_references and not setting.k_shot:
        return None

    def compare() -> Tensor:
        model, tokens = features.model(setting, seed), features.two_paths.patch_tokens
        patches = tokens.flatten(1, 2)
        partners = draw_partners(features.category.labels, setting, seed)
        golden = features.golden_patch_tokens(setting.k_shot, seed) if setting.k_shot else patches[:0]
        maps: list[Any] = []
        for some, theirs in zip(tokens.split(_AT_ONCE), partners.split(_AT_ONCE), strict=True):
            references = [*patches[theirs].unbind(dim=1), *(each.expand(len(some), -1, -1) for each in golden)]
            maps.append(model.visual_map(some, references))
        return torch.cat(maps)

    return features.memo(("A^V", *_reference_key(setting), seed), compare)


def adapted_map(features: CategoryFeatures, setting: Setting, seed: int) -> Tensor:
    """A^T of every image, with an adapter fitted to it (Eq. 7–11), ``(N, T · h, w)``."""
    key = ("A^T", *_reference_key(setting), setting.adaptation_steps, setting.learning_rate, setting.beta, seed)
    return features.memo(key, lambda: adapt(features.model(setting, seed), features, setting, seed))


def adapt(model: DualImageCLIPModel, features: CategoryFeatures, setting: Setting, seed: int) -> Tensor:
    """Fits the adapters of a model, from where it has them start, to every image.

    Args:
        model: The model.
        features: The images.
        setting: How they are compared.
        seed: Seed of pairing and pseudo anomalies.

    Returns:
        A^T, ``(N, T · h, w)``.
    """
    joint = joint_anomaly_map(reference_map(features, setting, seed), language_map(features))
    batches = (
        each.split(_AT_ONCE) for each in (features.two_paths.patch_tokens, joint, *features.pseudo_anomalies(seed))
    )
    return torch.cat(
        [
            model.adapted_map(tokens, PseudoAnomalousCopies(*copies), some)
            for tokens, some, *copies in zip(*batches, strict=True)
        ]
    )


def _reference_key(setting: Setting) -> tuple[int, str, int, str]:
    return setting.num_references, setting.partners, setting.k_shot, setting.aggregation


def draw_partners(labels: Tensor, setting: Setting, seed: int) -> Tensor:
    """Draws the partners of every image.

    Args:
        labels: Whether images are anomalous, ``(N,)``; looked at only where a setting asks for one kind (Fig. 5b).
        setting: Number and kind of partners.
        seed: Seed of the draw.

    Returns:
        Indices, ``(N, R)``; nobody is its own partner.

    Raises:
        ValueError: There are not so many partners.
    """
    generator = torch.Generator().manual_seed(seed)
    if setting.partners == "any":
        return random_partners(len(labels), setting.num_references, generator)
    allowed = labels if setting.partners == "anomalous" else ~labels
    fewest = max(0, int(allowed.sum()) - 1)
    if fewest < setting.num_references:
        msg = f"{setting.num_references} {setting.partners} partners are asked for, but some images have {fewest}"
        raise ValueError(msg)
    lots = torch.rand(len(labels), len(labels), generator=generator)
    lots[:, ~allowed] = -1
    return lots.fill_diagonal_(-1).topk(setting.num_references, dim=1).indices
