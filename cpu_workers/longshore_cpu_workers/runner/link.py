"""The runner's end of the socket to its worker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import orjson

Message = list[Any]


def encode(message: Message) -> bytes:
    """One line of JSON; a line break cannot occur inside."""
    return orjson.dumps(message) + b"\n"


class Link:
    """Whole messages over a socket. Any thread may write."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Writes encoded messages in one go; blocks while the worker does not read."""
        with self._lock:
            self._link.sendall(data)

    def after_fork(self) -> None:
        """In a copy of this process: another thread may have held the lock."""
        self._lock = threading.Lock()

    def messages(self) -> Iterator[Message]:
        """What the worker says, until it is gone."""
        rest = b""
        while data := self._link.recv(1 << 18):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield orjson.loads(line)
