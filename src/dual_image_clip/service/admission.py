"""Who is let in, before anything is parsed: how many requests at a time, and how many bytes of each."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from dual_image_clip.service.limits import MEGA, Limits

Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]

# Of what the limit allows, so much of a body that is refused is read on, so that its sender hears why.
_READ_ON = 4
_RETRY_AFTER = "1"


class Admission:
    """Middleware that counts requests with a body, and the bytes of each.

    Args:
        app: What is protected.
        limits: What it takes.

    Attributes:
        inside: Requests that were let in and have no answer yet.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self.inside = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Lets a request in or refuses it."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, send, self._limits)
        if _is_from_elsewhere(headers):
            await _refuse(403, "pages of other sites may not use this service")(scope, body.receive, body.send)
        elif self.inside >= self._limits.waiting:
            refusal = _refuse(429, f"{self.inside} requests are waiting already: try again later", _RETRY_AFTER)
            await refusal(scope, body.receive, body.send)
        elif _length(headers) > self._limits.request_bytes:
            await _refuse(413, too_large(self._limits))(scope, body.receive, body.send)
        else:
            self.inside += 1
            try:
                await self._app(scope, body.receive, body.send)
            finally:
                self.inside -= 1


class _Body:
    """The body of a request as it comes in; an answer waits until its sender has done with sending."""

    def __init__(self, receive: Any, send: Any, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._bytes = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        message = await self._next()
        if self._bytes > self._limits.request_bytes:
            raise HTTPException(413, too_large(self._limits))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            with suppress(HTTPException):
                while not self._complete and self._bytes <= _READ_ON * self._limits.request_bytes:
                    await self._next()
        await self._send(message)

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self._limits.patience):
                message: Message = await self._receive()
        except TimeoutError as error:
            self._complete = True
            raise HTTPException(408, f"nothing came for {self._limits.patience:g} seconds") from error
        self._bytes += len(message.get("body", b""))
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def too_large(limits: Limits) -> str:
    """Says that a request has too many bytes.

    Args:
        limits: What the service takes.
    """
    return f"the request has more than {limits.request_bytes / MEGA:g} MB"


def _refuse(status: int, detail: str, retry_after: str | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers={"Retry-After": retry_after} if retry_after else None)


def _length(headers: Headers) -> int:
    # The server refuses what is no number.
    return int(headers.get("content-length", 0))


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site has made somebody's browser send this; programs name no origin."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")
