"""The layout of the page, and what happens when something on it is pressed or moved."""

import html
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dual_image_clip.class_names import require_class_name
from dual_image_clip.golden_memory import GoldenMemory
from dual_image_clip.photos import UnusableImageError
from dual_image_clip.prediction import CSV_NAME, Outcome, write_csv
from dual_image_clip.threshold_file import ThresholdFileError
from dual_image_clip.ui.results import TABLE_HEADER, gallery, golden_samples, problem, relabel, summary, table
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
    "Eight images or more of the same product work best. Is a good one called anomalous? Click on it and accept it: "
    "all are compared with it from then on."
)
_ACCEPT = "Accept as good"
_ACCEPTED_NAME = "accepted.zip"
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
        state, scored, selected, memory = (gr.State(time_to_live=_FORGET_AFTER) for _ in range(4))
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
                    value=_shown_threshold(scorer.threshold),
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
                with gr.Row():
                    accept = gr.Button(_ACCEPT, interactive=False, elem_id="accept")
                    accepted = gr.DownloadButton("Download accepted images", interactive=False, elem_id="accepted")
                golden = gr.HTML(golden_samples(scorer.num_golden, 0), elem_id="golden")
                rows = gr.Dataframe(headers=list(TABLE_HEADER), label="Scores", interactive=False, elem_id="rows")

        def show(outcome: Outcome, opaque: float) -> dict[Any, Any]:
            csv_file, trouble = _try_to_write(lambda: _csv_file(outcome), "CSV")
            return {
                state: outcome,
                message: summary(outcome) + trouble,
                pictures: gallery(outcome, opaque),
                rows: table(outcome),
                download: gr.DownloadButton(value=csv_file, interactive=bool(csv_file and outcome.predictions)),
            }

        def score(
            paths: Sequence[str] | None,
            name: str,
            opaque: float,
            own: GoldenMemory | None,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> Any:
            mistake = find_mistake(paths, name)
            if mistake or not paths:
                return {message: problem(mistake)}
            try:
                outcome = scorer(paths, name, progress, own)
            except ThresholdFileError as error:
                return {message: problem(f"{error}.")}
            found = show(outcome, opaque)
            return {
                **found,
                # Another image may be in the place of the one that is enlarged.
                pictures: gr.Gallery(found[pictures], selected_index=None),
                threshold: _shown_threshold(outcome.threshold),
                scored: paths,
                # What is in use is kept.
                memory: own,
                **select(None),
                golden: _say_golden(scorer, own),
            }

        def select(name: str | None) -> dict[Any, Any]:
            return {
                selected: name,
                accept: gr.Button(f"{_ACCEPT}: {name}" if name else _ACCEPT, interactive=name is not None),
            }

        def click(outcome: Outcome | None, event: gr.SelectData) -> Any:
            return select(outcome.predictions[event.index].path if outcome else None)

        def accept_selected(paths: Sequence[str] | None, name: str | None, own: GoldenMemory | None) -> Any:
            if paths is None or name is None:
                return {message: problem(NOTHING_SCORED)}
            own = scorer.own_golden() if own is None else own
            try:
                is_new = scorer.accept(own, paths, name)
            except UnusableImageError as error:
                return {message: problem(f"Not accepted: {name} {error.reason}.")}
            zip_file, trouble = _try_to_write(lambda: _zip_file(own), "file to download")
            what = "now: press Score to compare the images with it" if is_new else "already"
            return {
                message: f"{html.escape(name)} is a golden sample {what}.{trouble}",
                memory: own,
                golden: _say_golden(scorer, own),
                accepted: gr.DownloadButton(value=zip_file, interactive=bool(zip_file and own.accepted)),
            }

        def move_threshold(outcome: Outcome | None, limit: float, opaque: float) -> Any:
            if not outcome:
                return {message: problem(NOTHING_SCORED)}
            return show(relabel(outcome, limit, not scorer.has_pixel_threshold), opaque)

        def move_opacity(outcome: Outcome | None, opaque: float) -> Any:
            return {pictures: gallery(outcome, opaque) if outcome else []}

        shown: list[Any] = [state, message, pictures, rows, download]
        gr.on(
            [button.click, class_name.submit],
            score,
            [files, class_name, opacity, memory],
            [*shown, threshold, scored, memory, selected, accept, golden],
            concurrency_limit=1,
            show_progress_on=[message],
        )
        pictures.select(click, [state], [selected, accept], show_progress="hidden")
        accept.click(
            accept_selected,
            [scored, selected, memory],
            [message, memory, golden, accepted],
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


def _shown_threshold(limit: float | None) -> float:
    return 1.0 if limit is None else round(limit, 3)


def _say_golden(scorer: Scorer, own: GoldenMemory | None) -> str:
    if own is None:
        return golden_samples(scorer.num_golden, 0)
    return golden_samples(len(own) - len(own.accepted), len(own.accepted))


def _try_to_write(write: Callable[[], str], what: str) -> tuple[str | None, str]:
    """A file, or HTML that says why there is none; what was computed is shown all the same."""
    try:
        return write(), ""
    except OSError as error:
        return None, f"<br>{problem(f'There is no {what}: {error.strerror or error}.')}"


def _csv_file(outcome: Outcome) -> str:
    path = _new_folder() / CSV_NAME
    write_csv(outcome, path)
    return str(path)


def _zip_file(golden: GoldenMemory) -> str:
    path = _new_folder() / _ACCEPTED_NAME
    # PNG is compressed.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, picture in golden.accepted.items():
            archive.writestr(name, picture)
    return str(path)


def _new_folder() -> Path:
    # In Gradio's own folder, which goes when the server does.
    return Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
