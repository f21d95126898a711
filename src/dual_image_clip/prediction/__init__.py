"""A folder in, an answer out: the ranked list and the report that a prediction writes beside its heatmaps."""

from dual_image_clip.prediction.collecting import CollectsPredictions
from dual_image_clip.prediction.heatmaps import HeatmapVisualizer
from dual_image_clip.prediction.output_folder import LOCK_NAME, OutputError, OutputFolder
from dual_image_clip.prediction.picture_names import PNG, picture_names
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, on_one_line, printable, rank, write_csv
from dual_image_clip.prediction.products import put_together, settings_together
from dual_image_clip.prediction.report import PredictionReport
from dual_image_clip.prediction.result_files import CSV_NAME, REPORT_NAME, ResultFiles
from dual_image_clip.prediction.settings import settings_of
from dual_image_clip.prediction.sketch import ColourScale, Sketch, common_scale, draw_overlay, make_sketch

__all__ = [
    "CSV_NAME",
    "LOCK_NAME",
    "PNG",
    "REPORT_NAME",
    "CollectsPredictions",
    "ColourScale",
    "HeatmapVisualizer",
    "Outcome",
    "OutputError",
    "OutputFolder",
    "Prediction",
    "PredictionReport",
    "ResultFiles",
    "Sketch",
    "common_scale",
    "decide",
    "draw_overlay",
    "make_sketch",
    "on_one_line",
    "picture_names",
    "printable",
    "put_together",
    "rank",
    "settings_of",
    "settings_together",
    "write_csv",
]
