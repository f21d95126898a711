"""Serves, to this machine alone unless told otherwise."""

import importlib.util
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from dual_image_clip.service.limits import Limits

# fastapi and uvicorn are an extra.
if TYPE_CHECKING:
    from dual_image_clip.lightning_model import DualImageCLIP

_PARTS = ("fastapi", "uvicorn", "python_multipart")


def require_fastapi() -> None:
    """Refuses to go on without FastAPI and what belongs to it.

    Raises:
        ValueError: It is not installed.
    """
    if missing := [name for name in _PARTS if importlib.util.find_spec(name) is None]:
        msg = f"the service needs {', '.join(missing)}: pip install 'dual-image-clip[serve]'"
        raise ValueError(msg)


def serve(
    model: "DualImageCLIP", host: str, port: int, limits: Limits, min_area: int, announce: Callable[[str], object]
) -> None:
    """Serves until Ctrl-C or SIGTERM; requests that were let in are answered first.

    Args:
        model: What to score with.
        host: Address to listen on.
        port: Port to listen on.
        limits: What is taken.
        min_area: Pixels of an image that a defect must have at least.
        announce: Is told the service's address as soon as it answers.

    Raises:
        OSError: The port was taken in the meantime.
        GoldenImageError: The model needs golden images, and has no folder to take them from.
    """
    import uvicorn

    from dual_image_clip.service.app import create_app
    from dual_image_clip.service.scorer import ServiceScorer

    server = uvicorn.Server(
        uvicorn.Config(create_app(ServiceScorer(model, limits.pixels, min_area), limits), log_level="warning")
    )
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as listening:
        # After its own ending, uvicorn raises a signal once more, which is no reason to fail.
        signal.signal(signal.SIGTERM, lambda *_: None)
        announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        server.run([listening])
