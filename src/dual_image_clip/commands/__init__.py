"""The commands of ``dual-image-clip``, a module each: ``add`` describes its arguments, ``run`` does the work."""

from dual_image_clip.commands import calibrate, predict, serve, ui, watch
from dual_image_clip.commands.errors import FAILED, INTERRUPTED, WRONG_ARGUMENTS, CommandError
from dual_image_clip.commands.output import tell

COMMANDS = {"predict": predict, "calibrate": calibrate, "watch": watch, "serve": serve, "ui": ui}
"""Modules by the name of their command."""

__all__ = ["COMMANDS", "FAILED", "INTERRUPTED", "WRONG_ARGUMENTS", "CommandError", "tell"]
