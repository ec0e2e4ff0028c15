"""Long videos: attempts that are cut off, what they leave, and what the next one makes of it.

`test_transcode_killed` does it with real processes; here an attempt ends at a checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.make_inputs import make_video
from longshore.sdk import Context, JobCancelled, PermanentError, TaskError
from longshore_cpu_workers.tasks.transcoding import resumable, segments
from longshore_cpu_workers.tasks.transcoding.execution import Said, run_ffmpeg
from tests.tasks.conftest import ffmpeg
from tests.tasks.transcode_attempts import Attempts, Channel, frame_times, sound

SECONDS = 6
COPY = ("-c", "copy")
B_FRAMES = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac")
LOW = {"name": "low", "height": 60, "preset": "veryfast"}  # has B-frames
EACH_CODEC = [
    LOW,
    {"name": "web", "height": 32, "codec": "vp9", "container": "webm", "preset": "ultrafast"},
    {"name": "hevc", "height": 32, "codec": "hevc", "container": "mkv", "preset": "ultrafast"},
    {"name": "av1", "height": 32, "codec": "av1", "preset": "ultrafast"},
]
STILLS = {"count": 2, "height": 32}

Start = Callable[..., Attempts]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of a second, each in a checkpoint as soon as it is there."""
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 1.0)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def plain(media: Path) -> Path:
    """Six seconds with a tone, 30 frames a second."""
    return make_video(media / "tone.mp4", seconds=SECONDS, size="160x120", codecs=B_FRAMES)


@pytest.fixture(scope="module")
def sources(media: Path, plain: Path) -> Callable[[str], Path]:
    """Makes a source of a kind, each hard in its own way."""
    irregular = "select='gt(random(0),0.5)+lt(mod(t,3),1)'"
    commands: dict[str, tuple[str | Path, ...]] = {
        "ntsc.mp4": ("-i", plain, "-r", "30000/1001", *B_FRAMES),
        "irregular.mp4": (
            *("-i", plain, "-vf", irregular, "-fps_mode", "vfr", "-enc_time_base", "1:90000"),
            *B_FRAMES,
        ),
        "late.mkv": (
            "-itsoffset",
            "0.7",
            "-i",
            plain,
            "-i",
            plain,
            "-map",
            "0:v",
            "-map",
            "1:a",
            *COPY,
        ),
        "broadcast.ts": ("-i", plain, *COPY),
        "slides.mp4": ("-i", plain, "-vf", "fps=1/2", *B_FRAMES),
    }

    def make(name: str) -> Path:
        path = media / name
        if not path.exists():
            ffmpeg(*commands[name], path)
        return path

    return make


@pytest.fixture
def start(tmp_path: Path, plain: Path) -> Start:
    """Begins a job; `whole` names another folder for one that is not disturbed."""

    def begin(source: Path = plain, *renditions: dict[str, Any], name: str = "job") -> Attempts:
        params = {"renditions": list(renditions or (LOW,)), "thumbnails": STILLS}
        return Attempts(tmp_path / name, source, params)

    return begin


def assert_same(one: Attempts, other: Attempts) -> None:
    """The same frames at the same times, the same sound, the same thumbnails."""
    names = sorted(path.name for path in one.artifacts.iterdir())
    assert names == sorted(path.name for path in other.artifacts.iterdir())
    for name in names:
        mine, theirs = one.artifacts / name, other.artifacts / name
        if name.endswith(".jpg"):
            assert mine.read_bytes() == theirs.read_bytes(), name
            continue
        assert frame_times(mine) == frame_times(theirs), name
        assert (sound(mine) == sound(theirs)).all(), name


def listed(job: Attempts, rendition: int = 0) -> list[Path]:
    """The segments that the newest checkpoint relies on."""
    track = job.restored["tracks"][rendition]
    return [
        job.kept / f"{fence}-{rendition}-{number:05}.mp4"
        for number, (fence, _, _) in enumerate(track)
    ]


@pytest.mark.parametrize(
    "kind", ["ntsc.mp4", "irregular.mp4", "late.mkv", "broadcast.ts", "slides.mp4"]
)
def test_cut_off_twice_or_not_at_all_is_the_same(
    start: Start, sources: Callable[[str], Path], kind: str
) -> None:
    source = sources(kind)
    renditions = EACH_CODEC if kind in {"ntsc.mp4", "irregular.mp4"} else EACH_CODEC[:2]
    whole, job = start(source, *renditions, name="whole"), start(source, *renditions)
    whole.run()
    job.interrupt(segments=1)
    job.interrupt(segments=2, stills=1)
    result = job.run()
    assert_same(job, whole)
    assert len(job.times("low.mp4")) == len(frame_times(source))
    assert result.resumed_at > 0
    durations = pytest.approx([result.duration] * len(renditions), abs=0.1)
    assert [r.duration for r in result.renditions] == durations
    for index in range(len(renditions)):
        counts = [len(frame_times(path)) for path in listed(job, index)]
        assert sum(counts) == len(frame_times(source))


def test_the_frames_are_those_of_the_short_way(
    start: Start, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, short = start(plain, *EACH_CODEC), start(plain, *EACH_CODEC, name="short")
    job.interrupt(segments=4, stills=1)
    job.run()
    monkeypatch.setattr(segments, "SEGMENT_SECONDS", 100.0)
    short.run()
    assert not short.kept.exists()
    assert short.channels[0].checkpoints == []
    assert_same(job, short)


def test_a_resume_encodes_what_is_missing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def recorded(argv: list[str], *rest: Any) -> Said:
        asked.append(argv)
        return run_ffmpeg(argv, *rest)

    monkeypatch.setattr(resumable, "run_ffmpeg", recorded)
    job = start()
    job.interrupt(segments=5, stills=1)
    there = sum(len(frame_times(path)) for path in listed(job))
    asked.clear()
    result = job.run()
    encode, _ = asked
    assert [encode[i + 1] for i, word in enumerate(encode) if word == "-ss"] == ["2.500000"]
    assert [fence for fence, _, _ in job.restored["tracks"][0]] == [1] * 5 + [2]
    reports = [r for r in job.channels[-1].reports if r.phase == "transcode"]
    # What ffmpeg reported it counts from the frame at which it began.
    assert reports[-1].completed == SECONDS * 30
    assert reports[0].completed >= there == 150
    assert (reports[0].fraction or 0) >= 0.99 * result.resumed_at / SECONDS
    assert job.channels[-1].reports[-1].fraction == 1.0


def test_between_rename_and_checkpoint(start: Start) -> None:
    job = start()
    job.interrupt(segments=3)
    assert (job.kept / "1-0-00003.mp4").exists()
    job.run()
    assert (job.kept / "2-0-00003.mp4").exists()
    assert not (job.kept / "1-0-00003.mp4").exists()
    assert len(job.times("low.mp4")) == SECONDS * 30


def test_during_the_write_of_a_segment(start: Start) -> None:
    job = start()
    job.interrupt(segments=3)
    half = job.kept / "1-partial-xyz" / "0-00003.mp4"
    half.parent.mkdir()
    half.write_bytes(b"half")
    job.run()
    assert not half.parent.exists()
    assert len(job.times("low.mp4")) == SECONDS * 30


def test_a_cancel_in_a_drain_loses_no_segment(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(argv: list[str], ctx: Context, on_report: Any) -> Said:
        run_ffmpeg(argv, ctx, lambda _: None)  # nothing is saved meanwhile
        raise JobCancelled

    job = start()
    with monkeypatch.context() as patch:
        patch.setattr(resumable, "run_ffmpeg", cancelled)
        with pytest.raises(JobCancelled):
            job.run()
    assert len(job.restored["tracks"][0]) == SECONDS - 1  # whether the last is whole, none knows
    assert job.run().resumed_at == pytest.approx(SECONDS - 1, abs=0.1)
    assert len(job.times("low.mp4")) == SECONDS * 30


def test_a_store_that_is_away_costs_no_work(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(channel: Channel, value: Any, timeout: float) -> None:
        raise TimeoutError("the checkpoint was not confirmed")

    monkeypatch.setattr(Channel, "checkpoint", away)
    job = start()
    job.run()
    assert len(job.times("low.mp4")) == SECONDS * 30
    assert "the work goes on" in caplog.text


def finished(start: Start) -> Attempts:
    """A job of which nothing is left but to put it together."""
    job = start()
    job.run()
    shutil.rmtree(job.artifacts)
    assert job.restored["finished"] == 1
    return job


def test_while_it_was_put_together(start: Start) -> None:
    job = finished(start)
    assert job.run().resumed_at == pytest.approx(SECONDS, abs=0.05)
    assert [r for r in job.channels[1].reports if r.phase == "transcode"] == []
    assert len(job.times("low.mp4")) == SECONDS * 30


@pytest.mark.parametrize("gone", ["1-0-00004.mp4", "1-sound-aac-128.mp4", "1-thumb-002.jpg"])
def test_a_file_that_is_gone_is_made_again(start: Start, gone: str) -> None:
    whole, job = start(name="whole"), finished(start)
    whole.run()
    (job.kept / gone).unlink()
    assert job.run().resumed_at < SECONDS
    assert_same(job, whole)


def test_a_folder_that_is_gone(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    job = start()
    job.interrupt(segments=4, stills=1)
    shutil.rmtree(job.kept)
    with caplog.at_level(logging.WARNING):
        assert job.run().resumed_at == 0
    assert "segments are gone; they are made again" in caplog.text
    assert len(job.times("low.mp4")) == SECONDS * 30


@pytest.mark.parametrize("restored", ["else", {"work": 1}, [[1, 2]], {"tracks": None}])
def test_a_checkpoint_that_is_none(
    start: Start, restored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = start()
    job.restored = restored
    assert job.run().resumed_at == 0
    assert "the checkpoint cannot be read, so this starts over" in caplog.text


def test_a_checkpoint_of_another_source(
    start: Start, sources: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    job = start()
    job.interrupt(segments=4, stills=1)
    job.source = sources("ntsc.mp4")
    assert job.run().resumed_at == 0
    assert "other work or another ffmpeg" in caplog.text
    assert job.times("low.mp4") == frame_times(job.source)


def test_what_a_newer_attempt_made_is_left_alone(start: Start) -> None:
    job = start()
    job.interrupt(segments=4, stills=1)
    theirs = job.kept / "9-0-00000.mp4"
    theirs.write_bytes(b"newer")
    job.run()
    assert theirs.read_bytes() == b"newer"


@pytest.mark.parametrize("number", [2, -1])
def test_a_damaged_segment_is_no_trap(start: Start, number: int) -> None:
    job = finished(start)
    name = f"1-0-{range(len(job.restored['tracks'][0]))[number]:05}.mp4"
    size = (job.kept / name).stat().st_size
    (job.kept / name).write_bytes(bytes(size))
    if number == 2:
        with pytest.raises(TaskError, match=r"put together|exit code"):
            job.run()
        assert job.restored is None
    job.run()
    assert len(job.times("low.mp4")) == SECONDS * 30


def test_a_source_that_is_cut_off(start: Start, plain: Path, media: Path) -> None:
    complete = media / "complete.mkv"
    ffmpeg("-i", plain, *COPY, complete)
    cut = media / "cut.mkv"
    cut.write_bytes(complete.read_bytes()[: complete.stat().st_size * 2 // 3])
    job = start(cut)
    with pytest.raises(PermanentError, match="cut off"):
        job.run()


def test_a_folder_with_a_strange_name(start: Start) -> None:
    job = start(name="what? #1 %d'%20")
    job.interrupt(segments=4, stills=1)
    job.run()
    assert len(job.times("low.mp4")) == SECONDS * 30


def test_a_list_that_is_too_long_costs_no_work(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Channel, value: Any, timeout: float) -> None:
        raise ValueError("the checkpoint has 300000 bytes as JSON, more than 262144")

    monkeypatch.setattr(Channel, "checkpoint", refuse)
    attempts = start()
    assert attempts.run().renditions[0].duration == pytest.approx(SECONDS, abs=0.1)
