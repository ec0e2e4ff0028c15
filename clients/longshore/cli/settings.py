"""The global options, as every command finds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the command.

    Attributes:
        target: host:port of the server.
        timeout: seconds for each call.
        json: True writes one JSON document a line.
    """

    target: str
    timeout: float
    json: bool
