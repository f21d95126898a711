"""Where a command listens."""

import argparse


def add_address(command: argparse.ArgumentParser, port: int, what: str) -> None:
    """Adds address and port of a server.

    Args:
        command: The command.
        port: Port where its user names none.
        what: What it serves, as in "everybody in the network can use the page".
    """
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help=f"address to listen on; 0.0.0.0 lets everybody in the network use the {what} (default: %(default)s)",
    )
    command.add_argument("--port", type=int, default=port, help="port to listen on (default: %(default)s)")
