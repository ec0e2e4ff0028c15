"""Which renditions share a process of ffmpeg, and what follows when that process crashes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from longshore.sdk import TaskError
from longshore_cpu_workers.tasks.transcoding import parts, segments
from longshore_cpu_workers.tasks.transcoding.params import TranscodeParams
from longshore_cpu_workers.tasks.transcoding.parts import Part
from tests.tasks.transcode_attempts import Attempts

PAIR = [
    {"name": "a", "height": 64},
    {"name": "b", "height": 32, "codec": "vp9", "container": "mkv"},
]


def params(*codecs: str) -> TranscodeParams:
    renditions = [
        {"name": f"r{n}", "height": 64, "codec": codec, "container": "mkv"}
        for n, codec in enumerate(codecs)
    ]
    return TranscodeParams.model_validate({"renditions": renditions})


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(128, 64)] * 4, [(0, 1, 2, 3)]),
        ([(42, 32)] * 4, [(0, 3), (1,), (2,)]),  # h264, hevc, av1, vp9
        ([(128, 64), (60, 80), (80, 60), (16, 16)], [(0, 3), (1,), (2,)]),
    ],
)
def test_tiny_pictures_of_some_codecs_have_a_process_of_their_own(
    sizes: list[tuple[int, int]], expected: list[tuple[int, ...]]
) -> None:
    made = parts.shared(params("h264", "hevc", "av1", "vp9"), sizes)
    assert [part.renditions for part in made] == expected
    assert [part.extras for part in made] == [True, *[False] * (len(made) - 1)]


def test_a_tiny_picture_that_is_the_only_one_is_not_refused() -> None:
    assert parts.shared(params("av1"), [(16, 16)]) == [Part((0,), extras=True)]


@pytest.fixture
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An ffmpeg that ends by SIGABRT the first times it is run, and notes each run."""
    real = imageio_ffmpeg.get_ffmpeg_exe()

    def make(times: int) -> Path:
        runs, program = tmp_path / "runs", tmp_path / "ffmpeg"
        program.write_text(
            f'#!/bin/sh\necho run >> "{runs}"\n'
            f'[ "$(wc -l < "{runs}")" -le {times} ] && kill -ABRT $$\nexec "{real}" "$@"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
        return runs

    return make


@pytest.mark.parametrize("long", [False, True])
def test_an_ffmpeg_that_crashed_is_tried_once_more_with_a_process_for_each_rendition(
    crashes: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, long: bool
) -> None:
    if long:
        monkeypatch.setattr(segments, "SEGMENT_SECONDS", 0.5)
    runs = crashes(1)
    job = Attempts(tmp_path / "job", video, {"renditions": PAIR, "thumbnails": {"count": 1}})
    result = job.run()
    assert [rendition.name for rendition in result.renditions] == ["a", "b"]
    assert result.thumbnails == ["thumb-001.jpg"]
    assert len(runs.read_text().split()) == 1 + len(PAIR) + (len(PAIR) if long else 0)


def test_an_ffmpeg_that_crashes_again_fails_the_attempt(
    crashes: Any, video: Path, tmp_path: Path
) -> None:
    runs = crashes(2)
    with pytest.raises(TaskError, match="SIGABRT") as caught:
        Attempts(tmp_path / "job", video, {"renditions": PAIR}).run()
    assert caught.value.reason == "FFMPEG_CRASHED"
    assert len(runs.read_text().split()) == 2
