"""Ports to listen on, looked at before anything is loaded."""

import socket

_LARGEST_PORT = 65_535


def require_free_port(host: str, port: int) -> None:
    """Tells early whether the server will be able to listen.

    Args:
        host: Address or name of a network interface of this machine.
        port: Port.

    Raises:
        ValueError: The port is in use or reserved, or there is no such interface.
    """
    if not 0 < port <= _LARGEST_PORT:
        msg = f"--port {port} is not in 1..{_LARGEST_PORT}"
        raise ValueError(msg)
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"cannot listen on --host {host} --port {port}: {reason}; choose another --port or --host"
        raise ValueError(msg) from error
