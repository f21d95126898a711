"""The service's paths."""

from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Annotated, Any

import anyio
import torch
from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from dual_image_clip.service.admission import Admission
from dual_image_clip.service.answers import GoldenSamples, Health, Problem, Scores
from dual_image_clip.service.limits import MEGA, Limits
from dual_image_clip.service.page import describe
from dual_image_clip.service.scorer import RefusedError, ServiceScorer, Upload

_LONGEST_NAME = 255
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is no multipart/form-data, or ends too early"},
    403: {"model": Problem, "description": "A page of another site has sent it"},
    408: {"model": Problem, "description": "Nothing of the request came any more"},
    413: {"model": Problem, "description": "Too many bytes or images, or too many pixels in one of them"},
    422: {"model": Problem, "description": "There is no image, or one that cannot be read; it is named"},
    429: {"model": Problem, "description": "Too many requests are waiting: try again after Retry-After seconds"},
}
_Images = Annotated[list[UploadFile], File(description="One or more image files, such as PNG, JPEG or TIFF")]


def create_app(scorer: ServiceScorer, limits: Limits) -> Admission:
    """Makes the service.

    Args:
        scorer: Scores the requests of all clients.
        limits: What is taken.

    Returns:
        An ASGI application.
    """
    # Its own pages of documentation would be loaded from the internet.
    app = FastAPI(
        title="dual-image-clip",
        version=version("dual-image-clip"),
        description=_description(limits),
        docs_url=None,
        redoc_url=None,
    )
    admission = Admission(app, limits)
    # Reading, decoding and scoring, of one request after the other, beside the loop that answers.
    turn = anyio.CapacityLimiter(1)

    @app.post("/predict", responses=_REFUSALS, summary="Score images")
    async def predict(
        images: _Images, maps: Annotated[bool, Query(alias="map", description="Add anomaly maps")] = False
    ) -> Scores:
        """Scores the images of a request, each compared with others of the request and with the golden samples.

        The answer follows from the request and the golden samples alone: nothing else is kept between requests.
        """
        uploads = _uploads(images, limits)
        found = await _in_turn(turn, lambda: scorer.predict(uploads, maps))
        return Scores.model_validate({"images": found})

    @app.post("/golden", responses=_REFUSALS, summary="Accept images as good")
    async def golden(images: _Images) -> GoldenSamples:
        """Accepts images as good: from the next request on, all are compared with them, too, until the service ends.

        There are at most 16, or as many as it was started with; of more, the one whose like the others have leaves.
        """
        uploads = _uploads(images, limits)
        new = await _in_turn(turn, lambda: scorer.accept(uploads))
        accepted = [{"name": upload.name, "new": each} for upload, each in zip(uploads, new, strict=True)]
        return GoldenSamples.model_validate({"images": accepted, "golden": scorer.describe()["golden"]})

    @app.get("/health", summary="Ask how the service is")
    async def health() -> Health:
        """Tells what the service scores with, and how many requests are waiting; at once, also while it scores."""
        return Health(version=version("dual-image-clip"), waiting=admission.inside, **scorer.describe())

    @app.get("/docs", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(describe(app.openapi(), str(request.base_url).rstrip("/")))

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _one_line(error)}, 422)

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the service has failed, and its log tells why"}, 500)

    return admission


def _description(limits: Limits) -> str:
    return (
        "Finds defects in images of a product that it was never trained on. It takes at most "
        f"{limits.images} images and {limits.request_bytes / MEGA:g} MB a request, {limits.image_bytes / MEGA:g} MB "
        f"and {limits.pixels / MEGA:g} megapixels an image, and {limits.waiting} requests at a time."
    )


def _uploads(images: list[UploadFile], limits: Limits) -> list[Upload]:
    if len(images) > limits.images:
        raise HTTPException(413, f"the request has {len(images)} images, more than {limits.images}")
    uploads = [Upload(_label(image.filename, index), image.file) for index, image in enumerate(images)]
    for upload, image in zip(uploads, images, strict=True):
        if (image.size or 0) > limits.image_bytes:
            raise HTTPException(413, f"{upload.name} has more than {limits.image_bytes / MEGA:g} MB")
    return uploads


def _label(filename: str | None, index: int) -> str:
    """What an image is called in the answer: its name without folders, of whatever system."""
    name = PurePosixPath((filename or "").replace("\\", "/")).name
    # Half of a pair of UTF-16 is no text that can be sent.
    return name.encode(errors="replace").decode()[-_LONGEST_NAME:] or f"image {index + 1}"


async def _in_turn(turn: anyio.CapacityLimiter, work: Any) -> Any:
    try:
        return await anyio.to_thread.run_sync(work, limiter=turn)
    except RefusedError as error:
        raise HTTPException(413 if error.too_large else 422, str(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise HTTPException(413, "the images do not fit into memory: send fewer or smaller ones") from error


def _one_line(error: RequestValidationError) -> str:
    """What a request lacks, without the lists that pydantic makes of it."""
    first = error.errors()[0]
    if first["loc"][0] == "body":
        return "the request has no image files: send them as multipart/form-data, in fields that are all called images"
    return f"{first['loc'][-1]}: {first['msg']}"
