"""``dual-image-clip serve``: a service that scores images over HTTP."""

import argparse
import warnings
from typing import Any

from dual_image_clip.commands.address import add_address
from dual_image_clip.commands.errors import FAILED, CommandError
from dual_image_clip.commands.model import (
    add_class_name,
    add_decision_arguments,
    add_model_arguments,
    load_model,
    require_words,
)
from dual_image_clip.commands.output import tell

_DESCRIPTION = """\
Serves an interface for programs: images in over HTTP, scores and boxes out as JSON. Needs FastAPI:
pip install 'dual-image-clip[serve]'

  POST /predict  scores the images of a request, each compared with others of it and with golden samples; with
                 ?map=true, their anomaly maps are added
  POST /golden   accepts images as good: from then on, all are compared with them, too, until the service ends
  GET /health    tells what is scored with, and how many requests are waiting
  GET /docs      describes all this; /openapi.json does so for programs

Images are sent as multipart/form-data, in fields that are all called images. Nothing but golden samples is kept between
requests. Without --threshold, labels are null. Nobody else can use the service unless --host says so.
"""
_EXAMPLE = """\
exit codes: 0 ended by SIGTERM, 1 it failed, 2 an argument is wrong, 130 ended by Ctrl-C; requests that were let in are
answered first

example: dual-image-clip serve --class-name "metal nut" --threshold 0.4
         curl -F images=@a.png -F images=@b.png http://127.0.0.1:8000/predict
"""


def add(commands: Any) -> None:
    """Adds the command to those of the parser."""
    command = commands.add_parser(
        "serve",
        help="serve an interface for programs, over HTTP",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_class_name(command)
    add_address(command, port=8000, what="service")
    add_decision_arguments(command)
    add_model_arguments(command)
    limits = command.add_argument_group("limits", "what is refused, and with which status")
    for name, default, what in (
        ("--max-image-mb", 25, "megabytes of an image (413)"),
        ("--max-request-mb", 100, "megabytes of a request (413)"),
        ("--max-megapixels", 50, "megapixels of an image (413)"),
    ):
        limits.add_argument(name, type=float, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    for name, default, what in (
        ("--max-images", 32, "images of a request (413)"),
        ("--max-waiting", 32, "requests at the same time, the one that is being scored among them (429)"),
    ):
        limits.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        options: Arguments of ``serve``.

    Returns:
        Exit code.

    Raises:
        CommandError: An argument is wrong, FastAPI is not installed, or the port is taken.
    """
    from dual_image_clip.ports import require_free_port
    from dual_image_clip.service import MEGA, Limits, require_fastapi, serve

    require_words(options)
    for name in ("max_image_mb", "max_request_mb", "max_megapixels", "max_images", "max_waiting"):
        if not getattr(options, name) > 0:
            msg = f"--{name.replace('_', '-')} must be above 0, got {getattr(options, name)}"
            raise CommandError(msg)
    try:
        require_fastapi()
        require_free_port(options.host, options.port)
    except ValueError as error:
        raise CommandError(str(error)) from error
    limits = Limits(
        image_bytes=int(options.max_image_mb * MEGA),
        request_bytes=int(options.max_request_mb * MEGA),
        pixels=int(options.max_megapixels * MEGA),
        images=options.max_images,
        waiting=options.max_waiting,
    )
    warnings.simplefilter("ignore")
    model = load_model(options)
    try:
        serve(
            *(model, options.host, options.port, limits, options.min_area),
            announce=lambda address: tell(f"Serving at {address}, described at {address}/docs; Ctrl-C ends."),
        )
    except (ValueError, OSError) as error:
        raise CommandError(str(error), FAILED) from error
    return 0
