"""The layout of the page, and what happens when something on it is pressed or moved."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dual_image_clip.class_names import require_class_name
from dual_image_clip.prediction import CSV_NAME, Outcome, write_csv
from dual_image_clip.threshold_file import ThresholdFileError
from dual_image_clip.ui.results import TABLE_HEADER, gallery, problem, relabel, summary, table
from dual_image_clip.ui.scorer import Scorer

TITLE = "dual-image-clip"
CSS = """
.problem { color: #b42318; }
.dark .problem { color: #ff9c8f; }
#message { min-height: 1.5em; }
#pictures .caption-label { max-width: 100%; white-space: normal; overflow-wrap: anywhere; text-align: left; }
"""
MOST_IMAGES = 200
NOTHING_SCORED = "Score some images first."
_INTRODUCTION = (
    f"# {TITLE}\nFinds the images, and the places in them, that look unlike the rest: no training, no good samples. "
    "Eight images or more of the same product work best."
)
_FORGET_AFTER = 3600


def build_page(scorer: Scorer) -> gr.Blocks:
    """Builds the page.

    Args:
        scorer: Scores the uploads of all users.

    Returns:
        The page, not served yet.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_FORGET_AFTER, _FORGET_AFTER)) as page:
        gr.Markdown(_INTRODUCTION)
        state = gr.State(time_to_live=_FORGET_AFTER)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                files = gr.File(label="Images", file_count="multiple", height=180, elem_id="files")
                class_name = gr.Textbox(
                    label="Class name: what the images show, in English", placeholder="metal nut", elem_id="class-name"
                )
                button = gr.Button("Score", variant="primary", elem_id="score")
                message = gr.HTML(elem_id="message")
                threshold = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=0.001,
                    label="Threshold",
                    info="Images with a score above it are anomalous.",
                    buttons=[],
                    elem_id="threshold",
                )
                opacity = gr.Slider(
                    0, 1, value=0.5, step=0.05, label="Opacity of the heatmaps", buttons=[], elem_id="opacity"
                )
                download = gr.DownloadButton("Download CSV", interactive=False, elem_id="download")
            with gr.Column(scale=3, min_width=480):
                pictures = gr.Gallery(
                    label="Most suspicious first",
                    columns=3,
                    height=620,
                    object_fit="contain",
                    format="jpeg",
                    interactive=False,
                    # Without Gradio's own button that sends pictures to a web site.
                    buttons=["download", "fullscreen"],
                    elem_id="pictures",
                )
                rows = gr.Dataframe(headers=list(TABLE_HEADER), label="Scores", interactive=False, elem_id="rows")

        def show(outcome: Outcome, opaque: float) -> dict[Any, Any]:
            said, csv_file = summary(outcome), None
            try:
                csv_file = _csv_file(outcome)
            except OSError as error:
                # The scores are shown all the same.
                said += f"<br>{problem(f'There is no CSV: {error.strerror or error}.')}"
            return {
                state: outcome,
                message: said,
                pictures: gallery(outcome, opaque),
                rows: table(outcome),
                download: gr.DownloadButton(value=csv_file, interactive=bool(csv_file and outcome.predictions)),
            }

        def score(paths: Sequence[str] | None, name: str, opaque: float, progress: Any = gr.Progress()) -> Any:  # noqa: B008
            mistake = find_mistake(paths, name)
            if mistake or not paths:
                return {message: problem(mistake)}
            try:
                outcome = scorer(paths, name, progress)
            except ThresholdFileError as error:
                return {message: problem(f"{error}.")}
            return {**show(outcome, opaque), threshold: _initial_threshold(outcome)}

        def move_threshold(outcome: Outcome | None, limit: float, opaque: float) -> Any:
            return show(relabel(outcome, limit), opaque) if outcome else {message: problem(NOTHING_SCORED)}

        def move_opacity(outcome: Outcome | None, opaque: float) -> Any:
            return {pictures: gallery(outcome, opaque) if outcome else []}

        shown: list[Any] = [state, message, pictures, rows, download]
        gr.on(
            [button.click, class_name.submit],
            score,
            [files, class_name, opacity],
            [*shown, threshold],
            concurrency_limit=1,
            show_progress_on=[message],
        )
        # The last position counts, whatever was asked for while the one before was being drawn.
        quickly: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
        threshold.input(move_threshold, [state, threshold, opacity], shown, **quickly)
        opacity.input(move_opacity, [state, opacity], [pictures], **quickly)
    return page


def find_mistake(paths: Sequence[str] | None, class_name: str) -> str:
    """Says what is missing before anything can be scored.

    Args:
        paths: Uploaded files.
        class_name: What was typed.

    Returns:
        A message, empty if all is well.
    """
    if not paths:
        return "Add some images first."
    if len(paths) > MOST_IMAGES:
        return (
            f"{len(paths)} images are too many for this page, which takes {MOST_IMAGES}: use dual-image-clip predict."
        )
    try:
        require_class_name(class_name, "The class name")
    except ValueError as error:
        return f"{error}."
    return ""


def _initial_threshold(outcome: Outcome) -> float:
    return 1.0 if outcome.threshold is None else round(outcome.threshold, 3)


def _csv_file(outcome: Outcome) -> str:
    # Gradio's own folder, which goes when the server does.
    path = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder())) / CSV_NAME
    write_csv(outcome, path)
    return str(path)
