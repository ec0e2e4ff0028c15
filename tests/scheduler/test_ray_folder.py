"""Where Ray's files go."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from longshore_scheduler.ray_folder import make_ray_folder

SOCKET = "session_2026-11-27_18-18-00_123456_1234567/sockets/plasma_store"


@pytest.mark.parametrize("name", ["short", "a-folder-whose-name-is-far-too-long-for-a-socket" * 2])
def test_it_follows_tmpdir_as_long_as_sockets_fit(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as base:  # short
        place = Path(base) / name
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        folder = Path(make_ray_folder("ls-"))
        try:
            assert len(str(folder / SOCKET)) <= 107
            assert (folder.parent == place) == (name == "short")
        finally:
            shutil.rmtree(folder)
