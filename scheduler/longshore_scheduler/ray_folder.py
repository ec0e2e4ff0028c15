"""Where Ray puts its files: a folder for temporary files whose path leaves room for its sockets."""

from __future__ import annotations

import tempfile

_LONGEST_SOCKET = 107
_BELOW = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
_RANDOM = 8  # characters that mkdtemp adds
_FALLBACK = "/tmp"  # noqa: S108  # mkdtemp makes a folder of this user's alone in it


def make_ray_folder(prefix: str) -> str:
    """Makes a folder where TMPDIR says, or in /tmp if a path there would be too long for a socket.

    The caller removes it.
    """
    place = tempfile.gettempdir()
    length = len(place.encode()) + len("/") + len(prefix) + _RANDOM + _BELOW
    return tempfile.mkdtemp(prefix=prefix, dir=place if length <= _LONGEST_SOCKET else _FALLBACK)
