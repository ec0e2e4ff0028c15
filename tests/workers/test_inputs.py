"""Inputs of an attempt: whatever their names are, they are found, or refused by what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore_cpu_workers.runner.inputs import InputRefused, open_input


@pytest.mark.parametrize(
    "name",
    [
        b"plain.mp4",
        b"two words.mp4",
        b"a#b?c%20d.mp4",
        b"caf\xc3\xa9.mp4",
        b"caf\xe9.mp4",
        b"new\nline",
    ],
)
def test_any_name_of_a_file_is_found(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content")
    found = open_input("video", path.as_uri(), 7, "", lambda: False)
    assert found.path == path


@pytest.mark.parametrize("uri", ["file:///in/a#b.mp4", "file:///in/a?b.mp4", "file:///in/a%20#"])
def test_a_bare_mark_in_a_uri_is_refused_and_not_cut_off(uri: str) -> None:
    with pytest.raises(InputRefused) as caught:
        open_input("video", uri, 0, "", lambda: False)
    assert caught.value.told.reason == "INPUT_NOT_SUPPORTED"
    assert "write %3F and %23" in caught.value.told.message
