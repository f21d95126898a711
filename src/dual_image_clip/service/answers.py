"""What the service answers, as its description tells it to programs."""

from typing import Literal

from pydantic import BaseModel, Field


class Defect(BaseModel):
    """A place of an image that is anomalous, in pixels of the image as a viewer shows it."""

    left: int
    top: int
    width: int
    height: int
    area: int = Field(description="Number of its pixels")
    share: float = Field(description="Share of the image's pixels, 0 to 1")
    largest: float = Field(description="Largest score of its pixels, 0 to 1")
    mean: float = Field(description="Mean score of its pixels, 0 to 1")


class ImageScore(BaseModel):
    """What was found in an image."""

    name: str = Field(description="Name that it was sent under, without folders")
    width: int
    height: int
    score: float = Field(description="How anomalous it is, 0 to 1")
    label: Literal["normal", "anomalous"] | None = Field(description="null where the service has no threshold")
    threshold: float | None = Field(description="Score above which an image is anomalous")
    num_references: int = Field(description="Images that it was compared with, golden samples included")
    defects: list[Defect] = Field(description="The most anomalous place first; none without a threshold")
    map: str | None = Field(
        description="With map=true, how anomalous each pixel is: a PNG of the image's size in base64, grey, of 16 "
        "bits, in which 65535 stands for 1"
    )


class Scores(BaseModel):
    """What was found in the images of a request, in the order in which they were sent."""

    images: list[ImageScore]


class Accepted(BaseModel):
    """An image that was accepted as good."""

    name: str
    new: bool = Field(description="Whether it is one more golden sample; the same image is none")


class GoldenSamples(BaseModel):
    """What was accepted, in the order in which it was sent."""

    images: list[Accepted]
    golden: int = Field(description="Golden samples that the service has by now")


class Health(BaseModel):
    """The state of the service, and what it scores with."""

    status: Literal["ok"] = "ok"
    version: str
    class_name: str
    backbone: str
    threshold: float | None
    golden: int = Field(description="Number of golden samples")
    waiting: int = Field(description="Requests that have no answer yet, the one that is being scored among them")


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    detail: str
