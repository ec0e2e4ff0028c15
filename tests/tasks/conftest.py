"""Tasks are called as functions here, on a context whose channel keeps what it is told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import psutil
import pytest

from examples.make_inputs import make_video
from longshore.sdk import Artifacts, Context, Input, Progress

MakeContext = Callable[..., "Run"]
Offspring = Callable[[], list[psutil.Process]]


class RecordingChannel:
    """Keeps every report; `cancel_when` cancels the job at a report it is true of."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.checkpoints: list[Any] = []
        self.cancel_when: Callable[[Progress], bool] = lambda _: False
        self.is_cancelled = False

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)
        self.is_cancelled = self.is_cancelled or self.cancel_when(progress)

    def log(self, line: str) -> None:
        raise AssertionError("tasks log through ctx.log")

    def checkpoint(self, value: Any, timeout: float) -> None:
        self.checkpoints.append(value)

    async def acheckpoint(self, value: Any, timeout: float) -> None:
        self.checkpoint(value, timeout)

    def grace(self) -> float | None:
        return None

    def cancelled(self) -> bool:
        return self.is_cancelled

    @property
    def fractions(self) -> list[float]:
        return [r.fraction for r in self.reports if r.fraction is not None]


class Run:
    """A context, its channel and the folder of its artifacts."""

    def __init__(self, folder: Path, inputs: dict[str, Path], devices: tuple[str, ...]) -> None:
        self.channel = RecordingChannel()
        self.folder = folder / "artifacts"
        (folder / "scratch").mkdir(parents=True)
        self.ctx = Context(
            job_id="job",
            attempt=1,
            tenant="tests",
            channel=self.channel,
            artifacts=Artifacts(self.folder),
            scratch=folder / "scratch",
            inputs={name: Input(name, path) for name, path in inputs.items()},
            devices=devices,
        )

    @property
    def files(self) -> set[str]:
        """Everything in the folder of artifacts, what is hidden as well."""
        if not self.folder.exists():
            return set()
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeContext:
    def make(devices: tuple[str, ...] = (), **inputs: Path) -> Run:
        return Run(tmp_path / "attempt", inputs, devices)

    return make


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def video(media: Path) -> Path:
    """Two seconds of 320x240 with sound, H.264 and AAC in MP4, its header at the end."""
    return make_video(media / "video.mp4", seconds=2, size="320x240", rate=25)


def ffmpeg(*words: str | Path) -> None:
    """Runs the bundled ffmpeg, for material that no helper makes."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    quiet = ("-nostdin", "-hide_banner", "-loglevel", "error", "-y")
    subprocess.run([program, *quiet, *map(str, words)], check=True)


@pytest.fixture
def offspring() -> Offspring:
    """Answers which living processes below this one are newer than the test."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}

    def newer() -> list[psutil.Process]:
        found = psutil.Process().children(recursive=True)
        return [process for process in found if process.pid not in before and runs(process)]

    return newer


def runs(process: psutil.Process) -> bool:
    """False once it has ended; between two looks it may vanish."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
