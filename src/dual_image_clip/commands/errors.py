"""How a command ends: its exit codes, and mistakes that its user can put right."""

FAILED, WRONG_ARGUMENTS, INTERRUPTED = 1, 2, 130


class CommandError(Exception):
    """Something that a user can put right, told in one line.

    Args:
        message: What is wrong.
        exit_code: Of the command.
    """

    def __init__(self, message: str, exit_code: int = WRONG_ARGUMENTS) -> None:
        super().__init__(message)
        self.exit_code = exit_code
