"""The address of a service, as people write it and as gRPC takes it."""

from __future__ import annotations

import ipaddress
import os
import re

DEFAULT_PORT = 7233
_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_PAST = ("no_grpc_proxy", "no_proxy")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
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


def is_loopback(target: str) -> bool:
    """True for a full target on this machine, which no proxy can reach for us."""
    place = host_and_port(target)
    if place is None:
        return target.startswith("unix")
    try:
        return place[0] == "localhost" or ipaddress.ip_address(place[0]).is_loopback
    except ValueError:
        return False


def proxy_variable(target: str) -> str:
    """The variable by which gRPC goes through a proxy to a full target; empty if it does not."""
    place = host_and_port(target)
    if is_loopback(target):
        return ""
    past = next(filter(None, map(os.environ.get, _PAST)), "")
    host = place[0] if place is not None else target
    if any(name.strip() and host.endswith(name.strip()) for name in past.split(",")):
        return ""
    return next((name for name in _PROXIES if os.environ.get(name)), "")


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
