"""The global options, as every command finds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The options before the command.

    Attributes:
        target: the server or servers, as `longshore.Client` takes them.
        timeout: seconds for each call.
        patient: True waits for a server that is not there until the timeout.
        json: True writes one JSON document a line.
        wide: True shows every column of a table, uncut.
    """

    target: str
    timeout: float
    patient: bool
    json: bool
    wide: bool
