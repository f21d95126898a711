"""``dual-image-clip ui``: serves a page on which images can be dropped."""

import argparse
import warnings
from typing import Any

from dual_image_clip.commands.address import add_address
from dual_image_clip.commands.errors import FAILED, CommandError
from dual_image_clip.commands.model import add_model_arguments, add_threshold, load_model
from dual_image_clip.commands.output import tell


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    command = commands.add_parser(
        "ui",
        help="serve a page on which images can be dropped",
        description="Serves a page: drop images, type what they show, see them ranked with heatmaps. Nothing leaves "
        "this machine, and nobody else can open the page unless --host says so. Needs Gradio: "
        "pip install 'dual-image-clip[ui]'",
    )
    add_address(command, port=7860, what="page")
    add_threshold(command)
    add_model_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C.

    Args:
        options: Arguments of ``ui``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, Gradio is not installed, or the port is taken.
    """
    from dual_image_clip.hooks import GoldenImageError
    from dual_image_clip.ui import require_free_port, require_gradio, serve

    try:
        require_gradio()
        require_free_port(options.host, options.port)
    except ValueError as error:
        raise CommandError(str(error)) from error
    warnings.simplefilter("ignore")
    model = load_model(options)
    try:
        model.load_golden_images()
    except GoldenImageError as error:
        raise CommandError(str(error)) from error
    try:
        serve(model, options.host, options.port, lambda address: tell(f"Open {address} in a browser; Ctrl-C ends."))
    except OSError as error:
        raise CommandError(str(error), FAILED) from error
    return 0
