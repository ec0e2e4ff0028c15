"""The command of a transcode, which is pure: parameters in, words out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from longshore_cpu_workers.tasks.transcoding import ffmpeg, parts, segments
from longshore_cpu_workers.tasks.transcoding.execution import failure_of
from longshore_cpu_workers.tasks.transcoding.ledger import Saved, Segment
from longshore_cpu_workers.tasks.transcoding.params import Rendition, TranscodeParams
from longshore_cpu_workers.tasks.transcoding.probe import DEMUXERS, Source
from longshore_cpu_workers.tasks.transcoding.progress import Report, ReportParser

OUT = Path("/out")


def source(**changes: Any) -> Source:
    facts: dict[str, Any] = {
        "path": Path("/in/v.mp4"),
        "demuxer": "mov",
        "duration": 10.0,
        "video_duration": 10.0,
        "video_index": 0,
        "video_codec": "h264",
        "width": 1920,
        "height": 1080,
        "rotation": 0,
        "frame_rate": 30.0,
        "audio_index": 1,
        "audio_codec": "aac",
        "channels": 6,
        "size": 1000,
    }
    return Source(**(facts | changes))


def params(*renditions: dict[str, Any], **others: Any) -> TranscodeParams:
    return TranscodeParams.model_validate({"renditions": list(renditions), **others})


def words(*renditions: dict[str, Any], src: Source | None = None, **others: Any) -> list[str]:
    asked = params(*renditions, **others)
    return ffmpeg.command("ffmpeg", src or source(), asked, OUT, parts.whole(asked), threads=2)


def after(command: list[str], option: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == option]


def test_limits_stand_before_the_input() -> None:
    command = words({"name": "a", "height": 720})
    before = command[: command.index("-i")]
    assert after(before, "-protocol_whitelist") == ["file,pipe"]
    assert after(before, "-format_whitelist") == after(before, "-f") == ["mov"]
    assert "-nostdin" in before
    assert after(command, "-i") == ["file:/in/v.mp4"]


def test_no_demuxer_reads_other_files() -> None:
    assert not {"hls", "dash", "concat", "image2", "lavfi", "sdp", "rtsp", "imf"} & set(DEMUXERS)


def test_it_decodes_once_for_all_outputs() -> None:
    command = words(
        {"name": "a", "height": 720}, {"name": "b", "height": 480}, thumbnails={"count": 5}
    )
    assert command.count("-i") == 1
    assert after(command, "-map") == ["0:0", "0:1", "0:0", "0:1", "0:0"]
    assert command[-1] == "file:/out/thumb-%03d.jpg"


def test_a_hostile_path_is_one_word_behind_a_protocol() -> None:
    hostile = Path("/in/-y concat:http://x|%d.mp4")
    command = words({"name": "a", "height": 720}, src=source(path=hostile))
    assert after(command, "-i") == [f"file:{hostile}"]


def test_a_percent_sign_in_the_folder_is_no_pattern() -> None:
    asked = params({"name": "a", "height": 720}, thumbnails={"count": 1})
    command = ffmpeg.command("ffmpeg", source(), asked, Path("/o%d"), parts.whole(asked), threads=1)
    assert command[-1] == "file:/o%%d/thumb-%03d.jpg"


@pytest.mark.parametrize(
    ("rendition", "expected"),
    [
        ({}, ["-c:v libx264", "-crf 23", "-preset veryfast", "-c:a aac", "-movflags +faststart"]),
        ({"crf": 0}, ["-crf 0"]),
        ({"codec": "hevc"}, ["-c:v libx265", "-crf 28", "-tag:v hvc1"]),
        ({"codec": "vp9", "container": "webm"}, ["-crf 32", "-b:v 0", "-c:a libopus"]),
        ({"codec": "av1", "container": "webm"}, ["-c:v libsvtav1", "-preset 9", "-f webm"]),
        ({"codec": "av1", "video_bitrate_kbps": 900}, ["-b:v 900k"]),
        ({"video_bitrate_kbps": 900}, ["-b:v 900k", "-maxrate 1350k", "-bufsize 1800k"]),
        ({"container": "mkv", "audio": "opus"}, ["-f matroska", "-c:a libopus", "-ac 2"]),
        ({"audio": "none"}, ["-an"]),
    ],
)
def test_choices_become_options(rendition: dict[str, Any], expected: list[str]) -> None:
    line = " ".join(words({"name": "a", "height": 720, **rendition}))
    assert [part for part in expected if part not in line] == []


def test_silence_stays_silent() -> None:
    command = words(
        {"name": "a", "height": 720}, src=source(audio_index=None, audio_codec=None, channels=0)
    )
    assert "-an" in command
    assert "-c:a" not in command


@pytest.mark.parametrize(
    ("rendition", "message"),
    [
        ({"codec": "h264", "container": "webm"}, "webm does not hold h264 here; it holds vp9, av1"),
        ({"codec": "vp9", "container": "mp4"}, "mp4 does not hold vp9"),
        ({"codec": "vp9", "container": "webm", "audio": "aac"}, "webm does not hold aac"),
        ({"crf": 52}, "crf 52 is above 51"),
        ({"crf": 20, "video_bitrate_kbps": 800}, "exclude each other"),
    ],
)
def test_what_does_not_fit_together_is_refused(rendition: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rendition.model_validate({"name": "a", "height": 720, **rendition})


def test_names_differ() -> None:
    with pytest.raises(ValidationError, match="share the name a"):
        params({"name": "a", "height": 720}, {"name": "a", "height": 480})


@pytest.mark.parametrize(
    ("shape", "height", "expected"),
    [
        ((1920, 1080), 480, (854, 480)),
        ((321, 241), 120, (160, 120)),
        ((1080, 1920), 640, (360, 640)),
        ((16384, 2), 2, (16384, 2)),
        ((4, 4000), 16, (2, 16)),
    ],
)
def test_sizes_are_even_and_keep_the_shape(
    shape: tuple[int, int], height: int, expected: tuple[int, int]
) -> None:
    assert ffmpeg.scaled(source(width=shape[0], height=shape[1]), height) == expected


def test_threads_are_bounded_and_shared_by_pixels() -> None:
    assert [ffmpeg.thread_count(asked, 4) for asked in (0, 1, 3, 64)] == [2, 1, 3, 4]
    assert ffmpeg.encoder_threads([(1280, 720), (854, 480)], 2) == [2, 1]
    assert ffmpeg.encoder_threads([(1280, 720)] * 8, 2) == [1] * 8


def test_thumbnails_are_never_scaled_up() -> None:
    command = words({"name": "a", "height": 64}, src=source(height=91), thumbnails={"count": 2})
    assert ":90,scale=out_range=full" in after(command, "-vf")[-1]


def test_reports_are_parsed_block_by_block() -> None:
    parser = ReportParser()
    lines = "frame=12\nfps=24.5\nout_time_us=N/A\nspeed=N/A\nprogress=continue".splitlines()
    lines += "frame= 50\nout_time_us=2000000\nspeed=1.25x\nnonsense\nprogress=end".splitlines()
    reports = [report for line in lines if (report := parser.feed(line))]
    assert reports == [Report(0.0, 12, 24.5, 0.0, False), Report(2.0, 50, 0.0, 1.25, True)]


@pytest.mark.parametrize(
    ("code", "lines", "reason", "said"),
    [
        (228, ("[out#0] [error] Error muxing: No space left on device",), "DISK_FULL", "disk is"),
        (1, ("[error] Cannot allocate memory",), "OUT_OF_MEMORY", "Cannot allocate memory"),
        (-9, (), "FFMPEG_KILLED", "SIGKILL; most likely"),
        (-15, (), "FFMPEG_KILLED", "SIGTERM"),
        (-6, ("free(): invalid size",), "FFMPEG_CRASHED", "SIGABRT"),
        (-11, (), "FFMPEG_CRASHED", "SIGSEGV"),
        (1, ("[enc] [error] bad size", "[fatal] Conversion failed!"), "FFMPEG_FAILED", "bad size"),
        (1, (), "FFMPEG_FAILED", "it said nothing"),
    ],
)
def test_failures_have_a_reason(code: int, lines: tuple[str, ...], reason: str, said: str) -> None:
    error = failure_of(code, lines)
    assert error.reason == reason
    assert said in str(error)


def in_segments(*renditions: dict[str, Any], src: Source, after: float | None = None) -> list[str]:
    asked = params(*renditions, thumbnails={"count": 2})
    number = 0 if after is None else 6
    todo = segments.Todo((number,) * len(renditions), (after,) * len(renditions), stills=number)
    return segments.encode_command("ffmpeg", src, asked, OUT, todo, parts.whole(asked), threads=2)


LONG = source(duration=100.0, video_duration=100.0)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(20.0, None), (21.0, 10.0), (3600.0, 10.0), (7200.0, 20.0)]
)
def test_segments_are_for_what_is_long(seconds: float, expected: float | None) -> None:
    src = source(video_duration=seconds)
    assert segments.segmented(src) == (expected is not None)
    assert expected is None or segments.segment_seconds(src) == expected


def test_the_largest_checkpoint_is_far_below_the_limit() -> None:
    track = [Segment(10**6, 4 * 3600 * 10**6, 10**9)] * (segments.MAX_SEGMENTS + 1)
    saved = Saved(work="0" * 64, threads=64, tracks=[track] * 8, stills=[10**6] * 50)
    assert len(saved.model_dump_json()) < 128 * 1024


def test_limits_stand_before_each_input_of_a_resume() -> None:
    command = in_segments({"name": "a", "height": 720}, src=LONG, after=60.0)
    inputs = [i for i, word in enumerate(command) if word == "-i"]
    assert [command[i + 1] for i in inputs] == ["file:/in/v.mp4"] * 2
    for begin, end in zip([0, inputs[0] + 2], inputs, strict=True):
        assert after(command[begin:end], "-protocol_whitelist") == ["file,pipe"]
        assert after(command[begin:end], "-format_whitelist") == ["mov"]
    assert after(command, "-ss") == ["58.000000"]


@pytest.mark.parametrize("demuxer", [d for d in DEMUXERS if d not in {"mov", "matroska"}])
def test_a_format_without_an_index_is_read_from_its_start(demuxer: str) -> None:
    src = source(duration=100.0, video_duration=100.0, demuxer=demuxer)
    command = in_segments({"name": "a", "height": 720}, src=src, after=60.0)
    assert "-ss" not in command
    assert "-copyts" not in command
    assert command.count("-i") == 1
    assert "select='gt(t,60.000020)'," in after(command, "-vf")[0]


def test_equal_sounds_are_encoded_once() -> None:
    web = {"codec": "vp9", "container": "webm"}
    command = in_segments(
        {"name": "a", "height": 720},
        {"name": "b", "height": 480},
        {"name": "c", "height": 480, **web},
        {"name": "d", "height": 360, "audio": "none"},
        src=LONG,
    )
    assert after(command, "-c:a") == ["aac", "libopus"]
    assert command.count("segment") == 4
    assert "file:/out/sound-aac-128.mp4" in command
    assert "file:/out/sound-opus-128.webm" in command


def test_a_playlist_quotes_and_times() -> None:
    assert segments.playlist([Path("/it's/1"), Path("/x/2")], [500_000, 10_500_000]) == (
        "ffconcat version 1.0\nfile 'file:/it'\\''s/1'\nduration 10.000000\nfile 'file:/x/2'\n"
    )


def test_assembling_encodes_nothing_and_opens_nothing_else() -> None:
    rendition = Rendition.model_validate({"name": "a", "height": 720, "codec": "hevc"})
    script, sound = Path("/kept/list"), Path("/kept/sound.mp4")
    command = segments.assemble_command("ffmpeg", rendition, script, 0, sound, OUT)
    assert after(command, "-c") == ["copy"]
    assert after(command, "-protocol_whitelist") == ["file,pipe"] * 2
    assert after(command, "-format_whitelist") == ["concat,mov", "mov"]
    assert after(command, "-tag:v") == ["hvc1"]
    assert after(command, "-movflags") == ["+faststart"]
    assert command[-1] == "file:/out/a.mp4"
