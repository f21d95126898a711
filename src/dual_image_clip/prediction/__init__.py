"""A folder in, an answer out: the ranked list and the report that a prediction writes beside its heatmaps."""

from dual_image_clip.prediction.collecting import CollectsPredictions
from dual_image_clip.prediction.deciding import decide_all
from dual_image_clip.prediction.heatmaps import HeatmapVisualizer, encoded, sixteen_bits
from dual_image_clip.prediction.outlines import draw_outlines
from dual_image_clip.prediction.output_folder import LOCK_NAME, OutputError, OutputFolder
from dual_image_clip.prediction.picture_names import PNG, picture_names
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, on_one_line, printable, rank, write_csv
from dual_image_clip.prediction.products import put_together, settings_together
from dual_image_clip.prediction.report import PredictionReport
from dual_image_clip.prediction.result_files import ANNOTATIONS_NAME, CSV_NAME, DEFECTS_NAME, REPORT_NAME, ResultFiles
from dual_image_clip.prediction.settings import settings_of
from dual_image_clip.prediction.single import draw_heatmap
from dual_image_clip.prediction.sketch import ColourScale, Sketch, common_scale, draw_overlay, make_sketch

__all__ = [
    "ANNOTATIONS_NAME",
    "CSV_NAME",
    "DEFECTS_NAME",
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
    "decide_all",
    "draw_heatmap",
    "draw_outlines",
    "draw_overlay",
    "encoded",
    "make_sketch",
    "on_one_line",
    "picture_names",
    "printable",
    "put_together",
    "rank",
    "settings_of",
    "settings_together",
    "sixteen_bits",
    "write_csv",
]
