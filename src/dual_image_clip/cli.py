"""The command ``dual-image-clip``, for those who do not want to know about anomalib's."""

import argparse
import sys
import traceback
from collections.abc import Sequence

from dual_image_clip.commands import COMMANDS, FAILED, INTERRUPTED, WRONG_ARGUMENTS, CommandError, say
from dual_image_clip.mistakes import one_line

__all__ = ["FAILED", "INTERRUPTED", "WRONG_ARGUMENTS", "CommandError", "main", "parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Those of the command line; without them, the process's.

    Returns:
        Exit code, see ``dual-image-clip predict --help``.
    """
    options = parser().parse_args(arguments)
    try:
        return COMMANDS[options.command].run(options)
    except CommandError as error:
        if options.debug:
            traceback.print_exc()
        say(f"dual-image-clip: error: {one_line(error)}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if options.command == "predict":
            say("Interrupted before the first image was scored; nothing was written.", sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    described = argparse.ArgumentParser(
        prog="dual-image-clip", description="Finds defects in photos, without training."
    )
    commands = described.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add(commands)
    return described


if __name__ == "__main__":
    sys.exit(main())
