"""Videos, and a camera that sends JPEG pictures over HTTP."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np


def write_video(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """A video of ten RGB frames a second."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def plain(shade: int) -> np.ndarray:
    """An RGB picture of one colour, that is not grey."""
    return np.full((48, 64, 3), (shade, shade // 2, 10), np.uint8)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while not self.server.ended:
                _, picture = cv2.imencode(".jpg", np.ascontiguousarray(self.server.picture[..., ::-1]))
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture.tobytes() + b"\r\n")
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_) -> None:
        pass


@contextmanager
def camera(picture: np.ndarray, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Sends a picture again and again, until it goes away; ``picture`` of the server may be changed."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    server.picture, server.ended = picture, False
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended = True
        server.shutdown()
        server.server_close()


def address_of(server: ThreadingHTTPServer) -> str:
    return f"http://somebody:secret@127.0.0.1:{server.server_address[1]}/video.mjpg"
