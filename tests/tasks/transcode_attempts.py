"""Attempts of one transcode job, each of which may be cut off, and a look at what they made."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from longshore.sdk import Artifacts, Context, Input, Progress
from longshore.sdk.artifacts import Kept
from longshore_cpu_workers.tasks import transcode
from longshore_cpu_workers.tasks.transcoding.params import TranscodeParams, TranscodeResult


class Channel:
    """Stores checkpoints, as JSON."""

    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.checkpoints: list[Any] = []

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)

    def log(self, line: str) -> None:
        raise AssertionError("tasks log through ctx.log")

    def checkpoint(self, value: Any, timeout: float) -> None:
        self.checkpoints.append(json.loads(json.dumps(value)))

    async def acheckpoint(self, value: Any, timeout: float) -> None:
        self.checkpoint(value, timeout)

    def grace(self) -> float | None:
        return None

    def cancelled(self) -> bool:
        return False


@dataclass
class Attempts:
    """A job: its folder, its source, and the newest checkpoint, which each attempt starts from."""

    folder: Path
    source: Path
    params: dict[str, Any]
    fence: int = 0
    restored: Any = None
    channels: list[Channel] = field(default_factory=list)

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @property
    def artifacts(self) -> Path:
        return self.folder / str(self.fence)

    def run(self) -> TranscodeResult:
        """One more attempt."""
        self.fence += 1
        channel = Channel()
        self.channels.append(channel)
        ctx = Context(
            job_id="job",
            attempt=self.fence,
            tenant="tests",
            channel=channel,
            artifacts=Artifacts(self.artifacts),
            scratch=self.folder / "scratch",
            inputs={"video": Input("video", self.source)},
            restored=self.restored,
            fence=self.fence,
            kept=Kept(self.kept, self.fence),
        )
        try:
            result: TranscodeResult = transcode(ctx, TranscodeParams.model_validate(self.params))
        finally:
            self.restored = (channel.checkpoints or [self.restored])[-1]
        return result

    def interrupt(self, segments: int, stills: int = 0) -> None:
        """One more attempt, of which so much of each track is in the last checkpoint.

        It runs on, so that the result depends on no speed; what it made since then is there, and
        listed nowhere.
        """
        self.run()
        shutil.rmtree(self.artifacts)
        tracks = [track[:segments] for track in self.restored["tracks"]]
        made = self.restored["stills"][:stills]
        self.restored = {**self.restored, "tracks": tracks, "stills": made, "finished": None}

    def times(self, name: str) -> list[Fraction]:
        """The time of each frame of an artifact, decoded from start to end."""
        return frame_times(self.artifacts / name)


def frame_times(path: Path) -> list[Fraction]:
    """The time of each frame, in the order in which they are shown; an error of any is raised."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        return [Fraction(f.pts or 0) * (f.time_base or 0) for f in container.decode(stream)]


def sound(path: Path) -> np.ndarray[Any, Any]:
    """The samples of the first channel; a hole between two frames is an error."""
    parts: list[Any] = []
    with av.open(str(path)) as container:
        due: float | None = None
        for frame in container.decode(audio=0):
            time = float(frame.time or 0.0)
            assert due is None or abs(time - due) < 0.002, f"a hole at {due} s"
            due = time + frame.samples / frame.sample_rate
            parts.append(frame.to_ndarray()[0].astype(float))
    return np.concatenate(parts)
