"""Real transcodes of small videos, looked into with PyAV."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import av
import pytest

from examples.make_inputs import make_video
from longshore.sdk import JobCancelled, PermanentError, TaskError
from longshore_cpu_workers.tasks import transcode
from longshore_cpu_workers.tasks.transcoding.execution import run_ffmpeg
from longshore_cpu_workers.tasks.transcoding.params import TranscodeParams, TranscodeResult
from tests.tasks.conftest import MakeContext, Offspring, Run, ffmpeg

H264_120 = {"name": "low", "height": 120, "preset": "ultrafast"}


def run(job: Run, *renditions: dict[str, Any], **others: Any) -> TranscodeResult:
    params = TranscodeParams.model_validate({"renditions": list(renditions), **others})
    result: TranscodeResult = transcode(job.ctx, params)
    return result


def refused(job: Run, *renditions: dict[str, Any]) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        run(job, *(renditions or (H264_120,)))
    assert job.files == set()
    return caught.value


def test_renditions_and_thumbnails(make_run: MakeContext, video: Path) -> None:
    job = make_run(video=video)
    result = run(
        job,
        {"name": "full", "height": 240, "preset": "ultrafast"},
        {**H264_120, "audio": "none"},
        thumbnails={"count": 4, "height": 90},
    )
    stills = [f"thumb-00{n}.jpg" for n in range(1, 5)]
    assert job.files == {"full.mp4", "low.mp4", *stills}
    assert result.thumbnails == stills
    sizes = [(r.width, r.height, r.codec, r.audio_codec) for r in result.renditions]
    assert sizes == [(320, 240, "h264", "aac"), (160, 120, "h264", None)]
    for rendition in result.renditions:
        assert rendition.duration == pytest.approx(2.0, abs=0.1)
        assert rendition.size == (job.folder / rendition.artifact).stat().st_size
    for name in stills:
        with av.open(str(job.folder / name)) as still:
            assert next(still.decode(video=0)).height == 90
    assert {a.name for a in job.ctx.artifacts.collect()} == job.files
    assert result.source.video_codec == "h264"
    assert (result.source.width, result.source.audio_codec) == (320, "aac")


def test_progress_rises_to_one(make_run: MakeContext, video: Path) -> None:
    job = make_run(video=video)
    run(job, H264_120)
    fractions = job.channel.fractions
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert job.channel.reports[0].phase == "probe"
    last = [r for r in job.channel.reports if r.phase == "transcode"][-1]
    assert (last.completed, last.unit) == (50, "frames")
    assert set(last.metrics) == {"fps", "speed"}


@pytest.mark.parametrize(
    ("rendition", "codec", "audio"),
    [
        ({"codec": "hevc", "container": "mp4"}, "hevc", "aac"),
        ({"codec": "vp9", "container": "webm"}, "vp9", "opus"),
        ({"codec": "av1", "container": "mkv", "audio": "opus"}, "av1", "opus"),
        ({"codec": "av1", "video_bitrate_kbps": 200}, "av1", "aac"),
        ({"codec": "h264", "container": "mkv", "crf": 30}, "h264", "aac"),
    ],
)
def test_each_codec_encodes(
    make_run: MakeContext, video: Path, rendition: dict[str, Any], codec: str, audio: str
) -> None:
    job = make_run(video=video)
    (made,) = run(job, {**H264_120, **rendition}).renditions
    assert (made.codec, made.audio_codec, made.height) == (codec, audio, 120)
    assert made.duration == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_the_smallest_height_encodes(make_run: MakeContext, video: Path, codec: str) -> None:
    job = make_run(video=video)
    tiny = {"name": "t", "height": 16, "codec": codec, "container": "mkv", "preset": "ultrafast"}
    assert run(job, tiny).renditions[0].height == 16


def test_odd_size_without_sound(make_run: MakeContext, media: Path) -> None:
    words = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    odd = make_video(media / "odd.mkv", seconds=1, size="321x241", sound=False, codecs=words)
    job = make_run(video=odd)
    (made,) = run(job, {**H264_120, "height": 240}).renditions
    assert (made.width, made.height, made.audio_codec) == (320, 240, None)


def test_rotation_is_applied(make_run: MakeContext, video: Path, media: Path) -> None:
    turned = media / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", video, "-c", "copy", turned)
    result = run(make_run(video=turned), {**H264_120, "height": 320})
    assert (result.source.width, result.source.height) == (240, 320)
    assert result.source.rotation in (90, 270)
    assert (result.renditions[0].width, result.renditions[0].height) == (240, 320)


def test_pixels_that_are_not_square(make_run: MakeContext, video: Path, media: Path) -> None:
    wide = media / "wide.mkv"
    ffmpeg(
        "-i", video, "-c:v", "libx264", "-preset", "ultrafast", "-vf", "setsar=2", "-t", "1", wide
    )
    (made,) = run(make_run(video=wide), H264_120).renditions
    assert (made.width, made.height) == (320, 120)


def test_a_recording_whose_header_has_no_duration(
    make_run: MakeContext, video: Path, media: Path
) -> None:
    live = media / "live.mkv"
    ffmpeg("-i", video, "-c", "copy", "-live", "1", "-f", "matroska", live)
    result = run(make_run(video=live), H264_120, thumbnails={"count": 2})
    assert result.duration == pytest.approx(2.0, abs=0.1)
    assert len(result.thumbnails) == 2


def test_metadata_is_left_behind(make_run: MakeContext, video: Path, media: Path) -> None:
    tagged = media / "tagged.mp4"
    ffmpeg("-i", video, "-c", "copy", "-metadata", "title=secret", tagged)
    job = make_run(video=tagged)
    run(job, H264_120)
    with av.open(str(job.folder / "low.mp4")) as made:
        assert "title" not in made.metadata


def test_nothing_is_scaled_up(make_run: MakeContext, video: Path) -> None:
    error = refused(make_run(video=video), H264_120, {"name": "big", "height": 480})
    assert error.reason == "UPSCALE"
    assert error.violations == (("renditions[1].height", "480 is above 240"),)
    assert "ask for at most 240" in str(error)


def test_a_missing_input(make_run: MakeContext, video: Path) -> None:
    error = refused(make_run(clip=video))
    assert (error.reason, error.code, error.metadata) == ("INPUT_MISSING", 3, {"input": "video"})


RUBBISH = ["text", "empty", "hls", "concat", "sdp", "audio", "song", "png", "jpeg", "avif", "raw"]
CUT_OFF = ["headless", "truncated", "truncated_mkv"]


@pytest.fixture(params=RUBBISH + CUT_OFF)
def rubbish(request: pytest.FixtureRequest, media: Path, video: Path) -> Path:
    """Files that are no video, each a way to be none."""
    kind: str = request.param
    # ffmpeg takes a playlist for one only where the name says so.
    path = media / f"rubbish-{kind}{'.m3u8' if kind == 'hls' else '.mp4'}"
    texts = {
        "text": "just words\n" * 100,
        "empty": "",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{video}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{video}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    sine = ("-f", "lavfi", "-i", "sine=duration=1")
    picture = ("-i", video, "-frames:v", "1")
    cover = ("-map", "0", "-map", "1:v", "-c:v", "png", "-disposition:v", "attached_pic")
    commands: dict[str, tuple[str | Path, ...]] = {
        "audio": (*sine, path),
        "song": (*sine, *picture, *cover, path),
        "png": (*picture, "-f", "apng", path),
        "jpeg": (*picture, "-f", "mjpeg", path),
        "avif": (*picture, "-c:v", "libsvtav1", "-f", "avif", path),
        "raw": ("-i", video, "-c:v", "copy", "-f", "h264", path),
    }
    if kind in texts:
        path.write_text(texts[kind])
    elif kind in commands:
        ffmpeg(*commands[kind])
    else:
        path.write_bytes(_cut(kind, media, video))
    return path


def _cut(kind: str, media: Path, video: Path) -> bytes:
    """The first half: of a header at the end, of a header at the start, of Matroska."""
    whole = video
    if kind != "headless":
        whole = media / ("whole.mkv" if kind == "truncated_mkv" else "whole.mp4")
        ffmpeg("-i", video, "-c", "copy", "-movflags", "+faststart", whole)
    content = whole.read_bytes()
    return content[: len(content) // 2]


def test_what_is_no_video_is_refused(make_run: MakeContext, rubbish: Path) -> None:
    error = refused(make_run(video=rubbish))
    assert (error.reason, error.code, error.metadata) == ("NOT_A_VIDEO", 3, {"input": "video"})
    assert "\n" not in str(error)


def test_cancel_ends_ffmpeg_and_leaves_nothing(
    make_run: MakeContext, media: Path, offspring: Offspring
) -> None:
    long = make_video(media / "long.mp4", seconds=60, size="640x480", sound=False)
    job = make_run(video=long)
    job.channel.cancel_when = lambda report: report.phase == "transcode"
    with pytest.raises(JobCancelled):
        run(job, {"name": "a", "height": 480, "preset": "slow"}, thumbnails={"count": 50})
    assert job.files == set()
    assert offspring() == []


def test_a_program_that_ignores_the_signal_is_killed(
    make_run: MakeContext,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offspring: Offspring,
) -> None:
    stubborn = tmp_path / "ffmpeg"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\necho progress=continue\nwhile :; do :; done\n")
    stubborn.chmod(stubborn.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(stubborn))
    job = make_run(video=video)
    job.channel.cancel_when = lambda report: report.phase == "transcode"
    with pytest.raises(JobCancelled):
        run(job, H264_120)  # nothing else would end that program
    assert job.files == set()
    assert offspring() == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
def test_a_full_disk_is_said(make_run: MakeContext, video: Path) -> None:
    import imageio_ffmpeg

    words = ("-loglevel", "level+warning", "-i", video, "-c", "copy", "-f", "mpegts", "/dev/full")
    argv = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", *map(str, words)]
    with pytest.raises(TaskError) as caught:
        run_ffmpeg(argv, make_run().ctx, lambda report: None)
    assert (caught.value.reason, caught.value.code) == ("DISK_FULL", 8)
    assert not isinstance(caught.value, PermanentError)


def test_a_failing_ffmpeg_is_quoted(
    make_run: MakeContext, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho '[enc @ 0x1f] [error] no such knob' >&2\nexit 3\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(broken))
    job = make_run(video=video)
    with pytest.raises(TaskError, match=r"exit code 3: \[enc\] \[error\] no such knob") as caught:
        run(job, H264_120)
    assert caught.value.reason == "FFMPEG_FAILED"
    assert job.files == set()
