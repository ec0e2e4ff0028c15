"""Hard sources: what they say of themselves is wrong or unusual, or not all of it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from longshore.sdk import PermanentError
from longshore_cpu_workers.tasks.transcoding.probe import probe
from tests.tasks.conftest import ffmpeg
from tests.tasks.transcode_attempts import Attempts

SMALL = [{"name": "out", "height": 64, "preset": "ultrafast"}]
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
LAVFI = ("-f", "lavfi", "-i")

Transcode = Callable[..., Any]


def pattern(seconds: float = 2, size: str = "128x96", rate: int = 25) -> tuple[str, ...]:
    return (*LAVFI, f"testsrc2=size={size}:rate={rate}:duration={seconds}")


def tone(hertz: int = 440, seconds: float = 2) -> tuple[str, ...]:
    return (*LAVFI, f"sine=frequency={hertz}:duration={seconds}")


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Attempts]:
    def make(source: Path, **params: Any) -> Attempts:
        return Attempts(tmp_path / "job", source, {"renditions": SMALL, **params})

    return make


def first_frame(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


# -- times, lengths and thumbnails


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


def test_every_frame_stays_and_at_its_time(job: Any, tmp_path: Path) -> None:
    """The rate says 25, and two of the frames are nearer to each other than that."""
    source = tmp_path / "uneven.mp4"
    moved = "setpts='PTS+if(eq(N,7),-0.03/TB,0)+0.012/TB',settb=1/1000"
    ffmpeg(*pattern(1), "-vf", moved, "-fps_mode", "vfr", "-enc_time_base", "1:1000", *H264, source)
    attempts = job(source)
    attempts.run()
    assert times(attempts.artifacts / "out.mp4") == pytest.approx(times(source), abs=0.002)


@pytest.mark.parametrize("sound", [(), (*tone(seconds=3), "-c:a", "aac")])
def test_a_picture_of_one_frame_has_one_thumbnail(
    job: Any, tmp_path: Path, sound: tuple[str, ...]
) -> None:
    source = tmp_path / "one.mkv"
    inputs, codecs = (sound[:-2], sound[-2:]) if sound else ((), ())
    ffmpeg(*pattern(), *inputs, "-frames:v", "1", *H264, *codecs, source)
    result = job(source, thumbnails={"count": 2}).run()
    assert result.thumbnails == ["thumb-001.jpg"]


def test_thumbnails_of_a_source_that_says_it_is_longer_come_from_what_there_is(
    job: Any, tmp_path: Path
) -> None:
    """A splice: the times of the second half are half a minute later."""
    halves = [tmp_path / "a.ts", tmp_path / "b.ts"]
    for number, half in enumerate(halves):
        ffmpeg(*pattern(1), *H264, "-output_ts_offset", f"{30 * number}", half)
    source = tmp_path / "spliced.ts"
    source.write_bytes(b"".join(half.read_bytes() for half in halves))
    assert probe(source).video_duration > 20
    result = job(source, thumbnails={"count": 4}).run()
    assert len(result.thumbnails) == 4
    assert not result.damaged


def test_a_picture_that_begins_late_is_not_longer_for_it(tmp_path: Path) -> None:
    source = tmp_path / "late.mkv"
    ffmpeg(*pattern(), *H264, "-output_ts_offset", "7", source)
    assert probe(source).video_duration == pytest.approx(2.0, abs=0.05)
    assert probe(source).duration == pytest.approx(2.0, abs=0.05)


# -- sounds and codecs


@pytest.fixture
def two_sounds(tmp_path: Path) -> Path:
    """A comment at 200 Hz, in German; and at 2,000 Hz, what is marked as default."""
    path = tmp_path / "two.mkv"
    ffmpeg(
        *(*pattern(), *tone(200), *tone(2000), "-map", "0", "-map", "1", "-map", "2"),
        *(*H264, "-c:a", "aac", "-metadata:s:a:0", "language=deu"),
        *("-disposition:a:0", "0", "-disposition:a:1", "default", path),
    )
    return path


@pytest.mark.parametrize(
    ("asked", "hertz"),
    [({}, 2000), ({"audio_stream": 0}, 200), ({"audio_language": "deu"}, 200)],
)
def test_the_sound_is_the_default_one_or_the_one_asked_for(
    job: Any, two_sounds: Path, asked: dict[str, Any], hertz: int
) -> None:
    attempts = job(two_sounds, **asked)
    result = attempts.run()
    with av.open(str(attempts.artifacts / "out.mp4")) as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    samples = np.concatenate(frames)
    loudest = np.abs(np.fft.rfft(samples)).argmax() * 44100 / len(samples)
    assert loudest == pytest.approx(hertz, rel=0.02)
    assert result.source.audio_stream == (1 if hertz == 2000 else 0)
    assert any("of 2 sounds" in note for note in result.notes)


@pytest.mark.parametrize("asked", [{"audio_stream": 2}, {"audio_language": "fra"}])
def test_a_sound_that_is_not_there(job: Any, two_sounds: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match=r"it has 0 \(deu\), 1 \(\?\)") as caught:
        job(two_sounds, **asked).run()
    assert caught.value.reason == "NO_SUCH_SOUND"


def with_unknown(path: Path, codec: bytes) -> Path:
    """Names a codec in a Matroska file that nobody has ever heard of."""
    content = path.read_bytes()
    assert codec in content
    path.write_bytes(content.replace(codec, codec[:2] + b"X" * (len(codec) - 2), 1))
    return path


def test_a_sound_of_an_unknown_codec_is_passed_over(job: Any, two_sounds: Path) -> None:
    result = job(with_unknown(two_sounds, b"A_AAC")).run()
    assert result.source.audio_stream == 1
    assert (
        "1 of 2 sounds have a codec that is not known here; another one was taken" in result.notes
    )


def test_a_picture_of_an_unknown_codec_is_no_video(job: Any, two_sounds: Path) -> None:
    with pytest.raises(PermanentError, match="a codec that is not known here") as caught:
        job(with_unknown(two_sounds, b"V_MPEG4/ISO/AVC")).run()
    assert caught.value.reason == "NOT_A_VIDEO"


# -- damage


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    path = tmp_path / "corrupt.mkv"
    ffmpeg(*pattern(4), *H264, "-g", "12", path)
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : third + 4000] = bytes(range(250)) * 16
    path.write_bytes(content)
    return path


def test_a_damaged_source_is_marked(job: Any, corrupt: Path) -> None:
    result = job(corrupt).run()
    assert result.damaged
    assert result.damage.errors > 0
    assert result.damage.first_error


def test_a_damaged_source_may_be_refused(job: Any, corrupt: Path) -> None:
    with pytest.raises(PermanentError, match="is damaged") as caught:
        job(corrupt, on_damage="fail").run()
    assert caught.value.reason == "SOURCE_DAMAGED"


def test_a_source_whose_end_is_missing_is_marked(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.flv"
    ffmpeg(*pattern(4), "-c:v", "flv1", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    result = job(path).run()
    assert result.damaged
    assert result.damage.lost_seconds > 1


def test_a_packet_that_is_not_whole_is_a_damage(job: Any, tmp_path: Path) -> None:
    """Of which ffmpeg only warns, and of which no length tells."""
    path = tmp_path / "cut.avi"
    ffmpeg(*pattern(2), *tone(), "-c:v", "mpeg4", "-c:a", "libmp3lame", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert job(path).run().damaged


def test_a_whole_source_is_not_marked(job: Any, video: Path) -> None:
    result = job(video).run()
    assert not result.damaged
    assert result.damage is None


# -- colours and fields


@pytest.fixture
def hdr(tmp_path: Path) -> Path:
    path = tmp_path / "hdr.mkv"
    tags = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:log-level=error:pools=1"
    ffmpeg(
        *(*pattern(1), "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-preset", "ultrafast"),
        *("-x265-params", tags, "-color_primaries", "bt2020", "-color_trc", "smpte2084"),
        *("-colorspace", "bt2020nc", path),
    )
    return path


def test_hdr_becomes_sdr_unless_it_is_to_stay(job: Any, hdr: Path) -> None:
    kept = {"name": "kept", "height": 64, "codec": "hevc", "preset": "ultrafast", "hdr": "keep"}
    attempts = job(hdr, renditions=[*SMALL, kept], thumbnails={"count": 1})
    result = attempts.run()
    sdr = first_frame(attempts.artifacts / "out.mp4")
    assert (sdr.format.name, int(sdr.color_trc), int(sdr.colorspace)) == ("yuv420p", 1, 1)
    stays = first_frame(attempts.artifacts / "kept.mp4")
    assert (stays.format.name, int(stays.color_trc)) == ("yuv420p10le", 16)
    assert result.source.hdr == "PQ"
    assert "HDR (PQ) was mapped to SDR, BT.709" in result.notes


def test_hdr_stays_only_in_what_has_ten_bits(job: Any, hdr: Path) -> None:
    with pytest.raises(ValueError, match="'keep' is for hevc, av1"):
        job(hdr, renditions=[{"name": "a", "height": 64, "hdr": "keep"}]).run()


@pytest.mark.parametrize(("size", "matrix"), [("1280x720", 1), ("128x96", 6)])
def test_rgb_says_by_which_matrix_it_was_converted(
    job: Any, tmp_path: Path, size: str, matrix: int
) -> None:
    path, height = tmp_path / "rgb.mov", int(size.partition("x")[2])
    red = f"color=c=0xbf0000:size={size}:rate=5:duration=0.4,format=rgb24"
    ffmpeg(*LAVFI, red, "-c:v", "png", path)
    attempts = job(path, renditions=[{"name": "out", "height": height, "preset": "ultrafast"}])
    attempts.run()
    frame = first_frame(attempts.artifacts / "out.mp4")
    assert int(frame.colorspace) == matrix
    assert abs(frame.to_ndarray(format="rgb24")[8, 8].astype(int) - [0xBF, 0, 0]).max() <= 4


def test_a_mirrored_picture_is_not_called_turned(job: Any, video: Path, tmp_path: Path) -> None:
    mirrored = tmp_path / "mirrored.mp4"
    ffmpeg("-display_hflip", "-i", video, "-c", "copy", mirrored)
    result = job(mirrored).run()
    assert result.source.rotation == 0
    assert "the picture was mirrored, as the file says" in result.notes


@pytest.mark.parametrize(
    ("name", "pixels", "codec"),
    [
        ("alpha.mov", "rgba", ("-c:v", "png")),
        ("alpha.mkv", "yuva444p10", ("-c:v", "ffv1")),
        ("alpha.webm", "yuva420p", ("-c:v", "libvpx-vp9", "-deadline", "realtime")),
    ],
)
def test_what_is_transparent_shows_black(
    job: Any, tmp_path: Path, name: str, pixels: str, codec: tuple[str, ...]
) -> None:
    path = tmp_path / name
    red = f"color=c=red@0.0:size=128x96:rate=5:duration=0.4,format={pixels}"
    ffmpeg(*LAVFI, red, *codec, path)
    attempts = job(path)
    result = attempts.run()
    seen = first_frame(attempts.artifacts / "out.mp4").to_ndarray(format="rgb24")
    assert seen.max() < 24
    assert "transparent parts show black" in result.notes


def test_an_interlaced_source_is_deinterlaced(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "fields.ts"
    ffmpeg(
        *(*pattern(1, rate=50), "-vf", "tinterlace=interleave_top,setfield=tff"),
        *("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "3", path),
    )

    def combs(how: str, number: int) -> float:
        """How much a line of the third frame differs from its neighbours."""
        attempts = job(path, renditions=[{"name": how, "height": 96}], deinterlace=how)
        attempts.fence = number
        result = attempts.run()
        assert result.source.interlaced
        assert ("the picture was deinterlaced" in result.notes) == (how == "auto")
        with av.open(str(attempts.artifacts / f"{how}.mp4")) as container:
            frame = [f for _, f in zip(range(3), container.decode(video=0), strict=False)][-1]
        gray = frame.to_ndarray(format="gray").astype(int)
        return float(np.abs(gray[1:-1] - (gray[:-2] + gray[2:]) / 2).mean())

    assert combs("auto", 1) < 0.9 * combs("never", 2)


def test_renditions_above_the_source_may_be_left_out(job: Any, video: Path) -> None:
    ladder = [{"name": f"{height}p", "height": height} for height in (480, 240, 120)]
    result = job(video, renditions=ladder, on_upscale="skip").run()
    assert [rendition.name for rendition in result.renditions] == ["240p", "120p"]
    assert result.skipped == ["480p"]


def test_a_ladder_wholly_above_the_source_is_refused(job: Any, video: Path) -> None:
    with pytest.raises(PermanentError, match="nothing is scaled up") as caught:
        job(video, renditions=[{"name": "a", "height": 480}], on_upscale="skip").run()
    assert caught.value.reason == "UPSCALE"
