"""The task in a real runner that is killed outright, and the attempt that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples.make_inputs import make_video
from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Checkpointed, Failed, InputRef, Progressed, Succeeded
from tests.tasks.conftest import ffmpeg
from tests.tasks.transcode_attempts import frame_times, sound
from tests.workers.harness import Bench, bench, gone, job

SECONDS = 12
RATE = "30000/1001"
PARAMS = {
    "renditions": [
        {"name": "low", "height": 60, "preset": "veryfast"},
        {"name": "web", "height": 32, "codec": "vp9", "container": "webm", "preset": "ultrafast"},
    ],
    "thumbnails": {"count": 5, "height": 32},
}


@pytest.fixture(scope="module")
def clip(media: Path) -> Path:
    plain = make_video(media / "plain.mp4", seconds=SECONDS, size="160x120")
    path = media / "clip.mp4"
    ffmpeg("-i", plain, "-r", RATE, "-c:v", "libx264", "-preset", "veryfast", "-c:a", "copy", path)
    return path


def attempt(clip: Path, job_id: str, fence: int, checkpoint: str | None = None) -> Any:
    video = InputRef("video", clip.as_uri(), 0, "")
    return job(job_id, "transcode", PARAMS, fence=fence, inputs=(video,), checkpoint=checkpoint)


async def stored(one: Bench) -> str:
    """The first checkpoint with a segment of each rendition, which may not be the first of all.

    It is stored, but only another poll would tell the task so, which waits for that.
    """
    while True:
        reports = await one.poll()
        assert not [r for r in reports if isinstance(r, Succeeded | Failed)]
        for report in reports:
            if isinstance(report, Checkpointed) and all(json.loads(report.value)["tracks"]):
                return report.value


async def kill(one: Bench, job_id: str) -> None:
    """Kills the runner as the kernel would, and waits until ffmpeg is gone with it."""
    runners = [psutil.Process(pid) for pid in one.runner_pids()]
    family = [child.pid for runner in runners for child in runner.children(recursive=True)]
    for runner in runners:  # one of them waits for another job
        runner.kill()
    failure = (await one.failed(job_id)).failure
    assert failure.failure_class is FailureClass.CRASH
    await gone(*family)


@pytest.mark.parametrize("kills", [1, 2])
async def test_a_killed_transcode_goes_on_where_it_was(
    tmp_path: Path, clip: Path, kills: int
) -> None:
    checkpoint = None
    folder = tmp_path / "artifacts" / "a"
    for fence in range(1, kills + 1):
        async with bench(tmp_path, modules=("tests.tasks.short_segments",)) as one:
            await one.assign(attempt(clip, "a", fence, checkpoint))
            checkpoint = await stored(one)
            await kill(one, "a")
        assert (folder / "kept").exists()
    async with bench(tmp_path, modules=("tests.tasks.short_segments",)) as one:
        outcome = await one.run(attempt(clip, "a", kills + 1, checkpoint))
        whole = await one.run(attempt(clip, "b", 1))
        bodies = [json.loads(report.body) for report in one.of(Progressed, "a")]
    assert isinstance(outcome, Succeeded), outcome
    assert isinstance(whole, Succeeded), whole
    result = json.loads(outcome.value)
    assert result["resumed_at"] >= 1.0
    counts = [body["completed"] for body in bodies if body["phase"] == "transcode"]
    assert all(count >= 30 for count in counts)  # they go on from what was there
    assert not (folder / "kept").exists()
    compare(folder / str(kills + 1), tmp_path / "artifacts" / "b" / "1", clip)


def compare(resumed: Path, whole: Path, clip: Path) -> None:
    frames = len(frame_times(clip))
    for name in ("low.mp4", "web.webm"):
        times = frame_times(resumed / name)
        assert times == frame_times(whole / name)
        assert len(times) == frames
        assert len(sound(resumed / name)) == len(sound(whole / name))
    for n in range(1, 6):
        still = f"thumb-{n:03}.jpg"
        assert (resumed / still).read_bytes() == (whole / still).read_bytes()
