"""The paper's method: pure functions on tensors, and small modules."""

from dual_image_clip.method.adaptation import (
    AdaptationSettings,
    AdaptationTask,
    Adapters,
    adapt_tokens,
    adapted_scores,
    fit_adapters,
    initial_adapter,
    residual_tokens,
)
from dual_image_clip.method.attention import merge_heads, project_to_heads, residual_block
from dual_image_clip.method.encoder import DualPathEncoder, ImageFeatures, require_plain_vit
from dual_image_clip.method.fusion import (
    FusedScores,
    ScoreWeights,
    fuse,
    joint_anomaly_map,
    to_pixels,
    upsample_map,
)
from dual_image_clip.method.prompts import (
    PromptEnsemble,
    TextSettings,
    encode_ensemble,
    encode_prompts,
    prompt_ensemble,
)
from dual_image_clip.method.pseudo_anomaly import (
    PseudoAnomalies,
    PseudoAnomalyGenerator,
    covered_patches,
    patch_share,
)
from dual_image_clip.method.references import ReferencePool, ReferenceSettings, random_partners
from dual_image_clip.method.scoring import (
    AGGREGATIONS,
    aggregate_references,
    text_anomaly_score,
    visual_anomaly_map,
    visual_anomaly_maps,
)
from dual_image_clip.method.tiling import TileLayout, merge_tiles, split_into_tiles, tile_layout

__all__ = [
    "AGGREGATIONS",
    "AdaptationSettings",
    "AdaptationTask",
    "Adapters",
    "DualPathEncoder",
    "FusedScores",
    "ImageFeatures",
    "PromptEnsemble",
    "PseudoAnomalies",
    "PseudoAnomalyGenerator",
    "ReferencePool",
    "ReferenceSettings",
    "ScoreWeights",
    "TextSettings",
    "TileLayout",
    "adapt_tokens",
    "adapted_scores",
    "aggregate_references",
    "covered_patches",
    "encode_ensemble",
    "encode_prompts",
    "fit_adapters",
    "fuse",
    "initial_adapter",
    "joint_anomaly_map",
    "merge_heads",
    "merge_tiles",
    "patch_share",
    "project_to_heads",
    "prompt_ensemble",
    "random_partners",
    "require_plain_vit",
    "residual_block",
    "residual_tokens",
    "split_into_tiles",
    "text_anomaly_score",
    "tile_layout",
    "to_pixels",
    "upsample_map",
    "visual_anomaly_map",
    "visual_anomaly_maps",
]
