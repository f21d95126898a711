"""A folder in, an answer out: the ranked list and the report that a prediction writes beside its heatmaps."""

from dual_image_clip.prediction.heatmaps import HeatmapVisualizer, encoded, sixteen_bits
from dual_image_clip.prediction.output_folder import LOCK_NAME, OutputError, OutputFolder
from dual_image_clip.prediction.picture_names import PNG, picture_names
from dual_image_clip.prediction.predictions import Outcome, Prediction, decide, on_one_line, printable, rank, write_csv
from dual_image_clip.prediction.report import CSV_NAME, REPORT_NAME, PredictionReport
from dual_image_clip.prediction.single import draw_heatmap
from dual_image_clip.prediction.sketch import ColourScale, Sketch, common_scale, draw_overlay, make_sketch

__all__ = [
    "CSV_NAME",
    "LOCK_NAME",
    "PNG",
    "REPORT_NAME",
    "ColourScale",
    "HeatmapVisualizer",
    "Outcome",
    "OutputError",
    "OutputFolder",
    "Prediction",
    "PredictionReport",
    "Sketch",
    "common_scale",
    "decide",
    "draw_heatmap",
    "draw_overlay",
    "encoded",
    "make_sketch",
    "on_one_line",
    "picture_names",
    "printable",
    "rank",
    "sixteen_bits",
    "write_csv",
]
