"""The frames of a video file."""

import cv2
import numpy as np
import pytest

from dual_image_clip.photos import UnusableImageError
from dual_image_clip.sources import SourceError, Video
from tests.sources.clips import plain, write_video


def shade_of(image: np.ndarray) -> int:
    return round(float(image[..., 0].mean()) / 10)


def test_every_frame_is_given_in_its_colours(tmp_path):
    path = write_video(tmp_path / "clip.avi", [plain(10 * index) for index in range(12)])
    pictures = list(Video(path, pytest.fail))
    assert [picture.name for picture in pictures] == [f"{path}#{number}" for number in range(1, 13)]
    assert [picture.facts["seconds"] for picture in pictures] == pytest.approx([index / 10 for index in range(12)])
    assert [shade_of(picture.image) for picture in pictures] == list(range(12))
    assert {(picture.image.shape, picture.image.dtype.name) for picture in pictures} == {((48, 64, 3), "uint8")}
    red, green, blue = pictures[-1].image.mean((0, 1))
    assert red > green + 30 > blue + 60
    assert len({picture.place for picture in pictures}) == 12


def test_one_of_several_frames_is_given(tmp_path):
    path = write_video(tmp_path / "clip.avi", [plain(10 * index) for index in range(12)])
    pictures = list(Video(path, pytest.fail, every=5))
    assert [picture.name for picture in pictures] == [f"{path}#{number}" for number in (1, 6, 11)]
    assert [shade_of(picture.image) for picture in pictures] == [0, 5, 10]


def test_what_cannot_be_decoded_is_told(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.avi", [plain(100)] * 4)
    told = []
    video = Video(path, told.append)

    class Broken:
        """Says that there are four frames, of which the second is broken and the fourth missing."""

        def __init__(self, *_) -> None:
            self.number = 0

        def grab(self) -> bool:
            self.number += 1
            return self.number < 4

        def retrieve(self):
            return (False, None) if self.number == 2 else (True, plain(100))

        def get(self, what: int) -> float:
            return 4.0 if what == cv2.CAP_PROP_FRAME_COUNT else 0.0

        def release(self) -> None:
            pass

    monkeypatch.setattr("dual_image_clip.sources.video.open_capture", Broken)
    kinds = [isinstance(picture.image, UnusableImageError) for picture in video]
    assert kinds == [False, True, False]
    assert told == [f"{path} ends after 3 of 4 frames: the others cannot be read"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nowhere.avi", None, "there is no folder, video or camera"),
        ("empty.avi", b"", "cannot be read as a video, or has no frames"),
        ("text.mp4", b"no video", "cannot be read as a video, or has no frames"),
        ("photo.png", b"x", "is a photo: name its folder, or use dual-image-clip predict"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=reason) as caught:
        Video(tmp_path / name, pytest.fail)
    assert name in str(caught.value)


def test_a_video_without_frames_is_named(tmp_path):
    path = write_video(tmp_path / "clip.avi", [plain(0)])
    content = path.read_bytes()
    # A head that is whole, and nothing behind it.
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(SourceError, match=r"clip\.avi cannot be read as a video, or has no frames"):
        Video(path, pytest.fail)
