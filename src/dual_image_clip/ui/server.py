"""Serves the page, to this machine alone unless told otherwise."""

import importlib.util
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

# gradio is an extra, and takes seconds to import.
if TYPE_CHECKING:
    from dual_image_clip.lightning_model import DualImageCLIP

# A hard limit for what is written to disk; the page itself refuses less, by name, and scores the others.
_MOST_UPLOADED_BYTES = "500mb"
# What a browser is allowed to load: this server's own files, and pictures made in the page.
_OWN_FILES_ONLY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; frame-ancestors 'self'"
)


def require_gradio() -> None:
    """Refuses to go on without Gradio.

    Raises:
        ValueError: It is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        msg = "the page needs Gradio: pip install 'dual-image-clip[ui]'"
        raise ValueError(msg)


def serve(model: "DualImageCLIP", host: str, port: int, announce: Callable[[str], object]) -> None:
    """Serves the page until Ctrl-C.

    Args:
        model: What to score with.
        host: Address to listen on.
        port: Port to listen on.
        announce: Is told the page's address as soon as it can be opened.

    Raises:
        OSError: The port was taken in the meantime.
    """
    with tempfile.TemporaryDirectory(prefix="dual-image-clip-ui-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # Read when Gradio is imported.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Ended by a service manager, the uploads are removed as well.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page = _launch(model, host, port)
        announce(page.local_url)
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def _launch(model: "DualImageCLIP", host: str, port: int) -> Any:
    from starlette.middleware import Middleware

    from dual_image_clip.ui.page import CSS, build_page
    from dual_image_clip.ui.scorer import Scorer

    page = build_page(Scorer(model))
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        max_file_size=_MOST_UPLOADED_BYTES,
        css=CSS,
        app_kwargs={"middleware": [Middleware(_OwnFilesOnly)]},
    )
    return page


class _OwnFilesOnly:
    """Tells browsers to load nothing from elsewhere, whatever a page of Gradio's asks for."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", _OWN_FILES_ONLY.encode()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_policy)
