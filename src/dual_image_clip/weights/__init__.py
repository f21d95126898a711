"""CLIP models and their weights, and text embeddings on disk."""

from dual_image_clip.weights.backbone import (
    EMBEDDED,
    EMBEDDED_WEIGHTS,
    Backbone,
    WeightsUnavailableError,
    load_backbone,
)
from dual_image_clip.weights.checkpoint_file import load_weights
from dual_image_clip.weights.sharing import sharing_weights
from dual_image_clip.weights.text_cache import cached_text_embeddings, class_embeddings

__all__ = [
    "EMBEDDED",
    "EMBEDDED_WEIGHTS",
    "Backbone",
    "WeightsUnavailableError",
    "cached_text_embeddings",
    "class_embeddings",
    "load_backbone",
    "load_weights",
    "sharing_weights",
]
