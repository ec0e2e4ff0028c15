"""Where a server may listen."""

from __future__ import annotations

import ipaddress


class UnusableAddress(ValueError):
    """The address cannot be listened on, or must not be; the message says what to do."""


def check_address(listen: str, *, insecure: bool) -> None:
    """Refuses what is no HOST:PORT, and plain text beyond this machine unless told to.

    Raises:
        UnusableAddress: with one sentence.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UnusableAddress(f"--listen {listen!r} is not HOST:PORT, such as 127.0.0.1:7233")
    if not insecure and not _is_loopback(host.strip("[]")):
        raise UnusableAddress(
            f"--listen {listen} can be reached from other machines and there is no"
            " authentication yet; listen on 127.0.0.1, or say --insecure"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name may resolve to anything
        return False
