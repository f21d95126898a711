"""A camera: always the newest frame, and one that goes away is waited for."""

import socket
import time

import pytest

from dual_image_clip.sources import Camera, SourceError, is_camera
from dual_image_clip.sources import camera as cameras
from tests.sources.clips import address_of, camera, plain


def is_like(image, shade: int) -> bool:
    return abs(float(image[..., 0].mean()) - shade) < 5


def test_the_newest_frame_is_given_and_a_camera_that_comes_back_is_read_again(monkeypatch):
    monkeypatch.setattr(cameras, "_FIRST_PAUSE", 0.05)
    told = []
    with camera(plain(100)) as server:
        port, shown = server.server_address[1], address_of(server).replace("somebody:secret@", "")
        pictures = iter(Camera(address_of(server), told.append))
        first = next(pictures)
        assert first.name == shown
        assert is_like(first.image, 100)
        # Scoring takes its time; what has come at its beginning is of no interest any more.
        server.picture = plain(200)
        time.sleep(1)
        second = next(pictures)
        assert is_like(second.image, 200)
        assert first.facts["time"] < second.facts["time"]
        assert first.place != second.place
    end = time.monotonic() + 20
    while not told:
        assert time.monotonic() < end
        time.sleep(0.02)
    with camera(plain(30), port):
        while not is_like(next(pictures).image, 30):
            assert time.monotonic() < end
        assert told == [f"{shown} does not answer any more: trying again", f"{shown} is back"]
        pictures.close()


def test_a_camera_that_does_not_answer_is_named_without_its_password():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://somebody:secret@127.0.0.1:{probe.getsockname()[1]}/video.mjpg"
    with pytest.raises(SourceError, match="cannot be opened, or sends no frames") as caught:
        Camera(address, pytest.fail)
    assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="camera 99 cannot be opened"):
        Camera("99", pytest.fail)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("0", True), ("rtsp://a/b", True), ("http://a", True), ("photos", False), ("./0", False), ("C:\\x", False)],
)
def test_a_camera_is_told_from_a_path(source, expected):
    assert is_camera(source) is expected
