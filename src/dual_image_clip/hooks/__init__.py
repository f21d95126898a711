"""What anomalib and Lightning need from this package around a run."""

from dual_image_clip.hooks.before_run import PreparesRun, make_latest
from dual_image_clip.hooks.checkpoints import CarriesWhatWasInUse
from dual_image_clip.hooks.data_loaders import ChangesDataLoaders
from dual_image_clip.hooks.defects_found import defects_of
from dual_image_clip.hooks.distributed import EachImageOnce, gather
from dual_image_clip.hooks.evaluation import (
    evaluated_image_paths,
    evaluation_datasets,
    require_enough_images,
)
from dual_image_clip.hooks.golden import GoldenImageError, GoldenImages
from dual_image_clip.hooks.look_ahead import ImagesAhead
from dual_image_clip.hooks.messages import PlainOutput
from dual_image_clip.hooks.metrics import PaperEvaluator, paper_metrics
from dual_image_clip.hooks.one_evaluation import ScoresOnce
from dual_image_clip.hooks.photo_data import PhotoFolder, read_item
from dual_image_clip.hooks.post_processing import LabelFreePostProcessor, pixel_scores, robust_limit
from dual_image_clip.hooks.pre_processing import clip_pre_processor
from dual_image_clip.hooks.progress_bar import PhotoProgressBar
from dual_image_clip.hooks.sample_order import shuffle_samples
from dual_image_clip.hooks.stock_command import predict_whole_folders, tell_mistakes_early
from dual_image_clip.hooks.unusable_files import UnusableFiles

__all__ = [
    "CarriesWhatWasInUse",
    "ChangesDataLoaders",
    "EachImageOnce",
    "GoldenImageError",
    "GoldenImages",
    "ImagesAhead",
    "LabelFreePostProcessor",
    "PaperEvaluator",
    "PhotoFolder",
    "PhotoProgressBar",
    "PlainOutput",
    "PreparesRun",
    "ScoresOnce",
    "UnusableFiles",
    "clip_pre_processor",
    "defects_of",
    "evaluated_image_paths",
    "evaluation_datasets",
    "gather",
    "make_latest",
    "paper_metrics",
    "pixel_scores",
    "predict_whole_folders",
    "read_item",
    "require_enough_images",
    "robust_limit",
    "shuffle_samples",
    "tell_mistakes_early",
]
