"""The address of a service, as people write it and as gRPC takes it."""

from __future__ import annotations

import re

DEFAULT_PORT = 7233
_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\w+)?")


def full_target(target: str) -> str:
    """A target with its port: HOST, HOST:PORT, [IPV6]:PORT, or what gRPC resolves by a scheme.

    Raises:
        ValueError: it is none; the message says what to write.
    """
    word = target.strip()
    url = _URL.match(word)
    if url is not None and url[1].lower() not in _SCHEMES:
        raise ValueError(
            f"the target {target!r} is a URL: write HOST:PORT without {url[1]}://, such as"
            f" localhost:{DEFAULT_PORT}"
        )
    scheme, colon, rest = word.partition(":")
    if colon and scheme in _SCHEMES:
        return f"{scheme}:{_names(rest)}" if scheme in ("dns", "ipv4") else word
    if "," in word:
        raise ValueError(f"the target {target!r} lists several: write ipv4:{word}")
    return _host_and_port(word, target)


def host_and_port(target: str) -> tuple[str, int] | None:
    """The one host and port of a full target; None if a scheme names something else."""
    scheme, _, rest = target.partition(":")
    if scheme in _SCHEMES and not rest.isdigit():
        return None
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


def _names(rest: str) -> str:
    """Adds the port to names and IPv4 addresses that have none."""
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    names = rest.removeprefix(slashes)
    if "/" in names or "[" in names:  # an authority, or IPv6: as it is
        return rest
    return slashes + ",".join(n if ":" in n else f"{n}:{DEFAULT_PORT}" for n in names.split(","))


def _host_and_port(word: str, target: str) -> str:
    if _BARE_IPV6.fullmatch(word):
        return f"[{word}]:{DEFAULT_PORT}"
    if ":" not in word or word.endswith("]"):
        word = f"{word}:{DEFAULT_PORT}"
    host, _, port = word.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"the target {target!r} is not HOST:PORT; write one such as localhost:{DEFAULT_PORT}"
        )
    return word
