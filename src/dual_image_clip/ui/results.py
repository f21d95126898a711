"""What the page shows of an outcome: pure functions, without Gradio."""

import html

import torch
from PIL import Image

from dual_image_clip.defects import Defect, find_defects
from dual_image_clip.hooks import pixel_scores
from dual_image_clip.prediction import Outcome, Prediction, common_scale, decide, draw_outlines, draw_overlay

TABLE_HEADER = ("rank", "name", "score", "label")


def relabel(outcome: Outcome, threshold: float, pixels_follow: bool = True) -> Outcome:
    """Labels the images of an outcome anew, and finds their defects anew.

    Args:
        outcome: What was found.
        threshold: Score above which an image is anomalous, and its pixels by their share of its score.
        pixels_follow: Whether it is the threshold of pixels; not where they have a calibrated one, which stays.

    Returns:
        The same with other labels and defects.
    """
    labelled = [each._replace(label=decide(each.score, threshold)) for each in outcome.predictions]
    if pixels_follow:
        labelled = [each._replace(defects=_defects_above(threshold, each)) for each in labelled]
    return outcome._replace(predictions=labelled, thresholds={"": threshold})


def gallery(outcome: Outcome, opacity: float) -> list[tuple[Image.Image, str]]:
    """Heatmaps with outlined defects, and captions, in the order of the outcome, all with the same colours.

    Args:
        outcome: What was found.
        opacity: Of the heatmaps, 0..1.

    Returns:
        Pairs of a picture and its caption.
    """
    scale = common_scale([each.sketch for each in outcome.predictions])
    return [
        (draw_outlines(draw_overlay(each.sketch, scale, opacity), each.defects, each.size), caption(each))
        for each in outcome.predictions
    ]


def caption(prediction: Prediction) -> str:
    """Name, score and label of an image, such as ``"a.png: 0.512, normal"``."""
    return f"{prediction.path}: {prediction.score:.3f}, {prediction.label}"


def table(outcome: Outcome) -> list[list[str]]:
    """Rows for :data:`TABLE_HEADER`, in the order of the outcome."""
    return [
        [str(rank), each.path, f"{each.score:.3f}", each.label]
        for rank, each in enumerate(outcome.predictions, start=1)
    ]


def summary(outcome: Outcome) -> str:
    """Says in HTML how many images are anomalous, what is missing, and which files could not be used."""
    count = len(outcome.predictions)
    lines = [f"<strong>{count} image{'' if count == 1 else 's'} scored, {outcome.num_anomalous} anomalous.</strong>"]
    if count and outcome.threshold is None:
        lines.append("Too few images to find a threshold, which takes eight: move the slider to set one.")
    if count == 1:
        lines.append("A single image has no other to be compared with; it was scored by text alone.")
    lines += [
        f'<span class="problem">Not scored: {html.escape(each.path)} {html.escape(each.reason)}.</span>'
        for each in outcome.unusable
    ]
    return "<br>".join(lines)


def golden_samples(num_own: int, num_accepted: int) -> str:
    """Says in HTML with how many golden samples images are compared.

    Args:
        num_own: Those that everybody begins with.
        num_accepted: Those that were accepted on the page.
    """
    lines = [f"<strong>{num_own + num_accepted} golden sample{'' if num_own + num_accepted == 1 else 's'}.</strong>"]
    if num_accepted:
        lines.append(f"{num_accepted} accepted here: yours alone, until this page is loaded anew or idle for an hour.")
    return " ".join(lines)


def problem(text: str) -> str:
    """A message in HTML that something has to be put right first.

    Args:
        text: Plain text.
    """
    return f'<span class="problem">{html.escape(text)}</span>'


def _defects_above(threshold: float, prediction: Prediction) -> tuple[Defect, ...]:
    scores = pixel_scores(torch.tensor([prediction.score]), prediction.sketch.anomaly_map[None].float())
    return find_defects(scores[0], threshold, prediction.size)
