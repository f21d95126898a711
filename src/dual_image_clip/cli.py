"""The command ``dual-image-clip``, for those who do not want to know about anomalib's."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import shtab

from dual_image_clip.commands import COMMANDS, FAILED, INTERRUPTED, WRONG_ARGUMENTS, CommandError, tell
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
        tell(f"dual-image-clip: error: {one_line(error)}", style="bold red")
        return error.exit_code
    except KeyboardInterrupt:
        if options.command == "predict":
            tell("Interrupted before the first image was scored; nothing was written.")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    described = argparse.ArgumentParser(
        prog="dual-image-clip", description="Finds defects in photos, without training."
    )
    shtab.add_argument_to(
        described,
        "--print-completion",
        help='print what makes a shell complete commands: eval "$(dual-image-clip --print-completion bash)"',
    )
    commands = described.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add(commands)
    for each in commands.choices.values():
        _complete_paths(each)
    return described


def _complete_paths(command: argparse.ArgumentParser) -> None:
    # argparse has no public list of arguments.
    for argument in command._actions:
        if argument.type is Path:
            argument.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
