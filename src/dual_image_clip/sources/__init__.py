"""Where pictures come from while a line runs: a folder in which photos appear, a video file, a camera or a stream."""

from dual_image_clip.sources.camera import Camera, is_camera
from dual_image_clip.sources.folder import Folder
from dual_image_clip.sources.pictures import Picture, SourceError
from dual_image_clip.sources.video import Video

__all__ = ["Camera", "Folder", "Picture", "SourceError", "Video", "is_camera"]
