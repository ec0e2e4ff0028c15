"""Builds the command that decodes once and writes renditions and thumbnails.

`segments` builds its commands from the same parts.

Pure: nothing here touches a file. Every word of the command is a constant, a number, a value
of a closed choice, or a path of ours behind `file:`, so that a name can be no option.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from longshore_cpu_workers.tasks.transcoding.params import (
    Codec,
    Preset,
    Rendition,
    TranscodeParams,
)
from longshore_cpu_workers.tasks.transcoding.parts import Part
from longshore_cpu_workers.tasks.transcoding.probe import (
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STREAMS,
    PROTOCOLS,
    Source,
)
from longshore_cpu_workers.tasks.transcoding.treatment import colours, deinterlacing, pixels

DEFAULT_THREADS = 2
REPORT_PERIOD = 0.25
THUMBNAIL_PATTERN = "thumb-%03d"

_ENCODERS: dict[Codec, str] = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}
_DEFAULT_CRF: dict[Codec, int] = {"h264": 23, "hevc": 28, "vp9": 32, "av1": 35}
_VP9_SPEED: dict[Preset, int] = {"ultrafast": 8, "veryfast": 5, "fast": 4, "medium": 2, "slow": 1}
_AV1_PRESET: dict[Preset, int] = {"ultrafast": 12, "veryfast": 9, "fast": 8, "medium": 6, "slow": 4}
_AUDIO_ENCODERS = {"aac": "aac", "opus": "libopus"}
NO_METADATA = ("-map_metadata", "-1", "-map_chapters", "-1")
TIMES = ("-fps_mode", "vfr", "-enc_time_base", "demux")
"""Every frame at the time that it has in the source: on a grid of 1/rate it would move by up to
half a frame against the sound, and of two near each other one would be lost."""
MUXERS = {"mp4": "mp4", "webm": "webm", "mkv": "matroska"}


def command(
    program: str,
    source: Source,
    params: TranscodeParams,
    folder: Path,
    part: Part,
    *,
    threads: int,
) -> list[str]:
    """The command line, program first.

    Args:
        program: the ffmpeg binary.
        source: the probed input.
        params: what is asked for.
        folder: where the outputs are written, under the names of their artifacts.
        part: which of them.
        threads: those of ffmpeg, shared by its encoders.
    """
    words = [program, *global_options(), *input_options(source, threads)]
    share = shares(source, params, threads)
    for index in part.renditions:
        rendition = params.renditions[index]
        words += ["-map", f"0:{source.video_index}", *_sound_or_none(rendition, source)]
        words += [*picture(rendition, source, params, share[index]), *TIMES]
        words += container(rendition, folder)
    if params.thumbnails.count and part.extras:
        words += stills(params, source, folder)
    return words


def thread_count(asked: int, cores: int) -> int:
    """Threads for a job that asked for so many, 0 for the default, on so many cores."""
    return max(1, min(asked or DEFAULT_THREADS, cores))


def shares(source: Source, params: TranscodeParams, threads: int) -> list[int]:
    """The threads of each rendition's encoder."""
    return encoder_threads(sizes(source, params), threads)


def sizes(source: Source, params: TranscodeParams) -> list[tuple[int, int]]:
    """Width and height of each rendition."""
    return [scaled(source, rendition.height) for rendition in params.renditions]


def encoder_threads(pictures: list[tuple[int, int]], threads: int) -> list[int]:
    """Shares the threads by pixels, one at least: the largest picture is the longest wait."""
    total = sum(width * height for width, height in pictures)
    return [max(1, math.ceil(threads * width * height / total)) for width, height in pictures]


def scaled(source: Source, height: int) -> tuple[int, int]:
    """Width and height of an output, both even, in the shape of the source."""
    width = round(source.width * height / source.height / 2) * 2
    return max(2, min(width, MAX_SIDE)), height


def global_options() -> list[str]:
    """What every ffmpeg is told about itself."""
    # "level+" marks each line of stderr with its severity; reports go to stdout.
    words = ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-nostats"]
    return [*words, "-stats_period", str(REPORT_PERIOD), "-progress", "pipe:1", "-y"]


def input_options(source: Source, threads: int, seek: Sequence[str] = ()) -> list[str]:
    """The source and what may be read of it; `seek` goes where to begin."""
    return [
        *("-protocol_whitelist", PROTOCOLS),
        *("-format_whitelist", source.demuxer, "-f", source.demuxer),
        *("-max_streams", str(MAX_STREAMS), "-max_pixels", str(MAX_PIXELS)),
        *seek,
        *(("-c:v", source.decoder) if source.decoder else ()),
        *("-threads", str(threads), "-i", f"file:{source.path}"),
    ]


def picture(
    rendition: Rendition,
    source: Source,
    params: TranscodeParams,
    threads: int,
    *,
    select: str = "",
    x265: str = "",
) -> list[str]:
    """How the picture is scaled and encoded.

    Args:
        select: an expression of ours that is true of the frames to take; empty takes all.
        x265: more parameters for that encoder, each with a colon in front.
    """
    filters = [
        deinterlacing(source, params.deinterlace),
        f"select='{select}'" if select else "",
        *colours(source, rendition, scaled(source, rendition.height)),
        "setsar=1",
        f"format={pixels(source, rendition)}",
    ]
    return [
        *NO_METADATA,
        *("-vf", ",".join(filter(None, filters))),
        *("-c:v", _ENCODERS[rendition.codec], "-threads:v", str(threads)),
        *_preset(rendition.codec, rendition.preset),
        *_quality(rendition),
        *_codec_details(rendition, threads, x265),
    ]


def container(rendition: Rendition, folder: Path) -> list[str]:
    """Where a rendition is written, and as what."""
    return [
        *(("-movflags", "+faststart") if rendition.container == "mp4" else ()),
        *("-f", MUXERS[rendition.container], f"file:{folder / rendition.artifact}"),
    ]


def _sound_or_none(rendition: Rendition, source: Source) -> list[str]:
    if rendition.audio_codec is None or source.audio_index is None:
        return ["-an"]
    return ["-map", f"0:{source.audio_index}", *sound(rendition, source)]


def sound(rendition: Rendition, source: Source) -> list[str]:
    """How the sound of a rendition that has some is encoded."""
    assert rendition.audio_codec is not None
    return [
        *("-c:a", _AUDIO_ENCODERS[rendition.audio_codec]),
        # Stereo at most: layouts beyond it are not portable between these encoders.
        *("-b:a", f"{rendition.audio_bitrate_kbps}k", "-ac", str(min(2, source.channels or 2))),
    ]


def _preset(codec: Codec, preset: Preset) -> list[str]:
    if codec == "vp9":
        deadline = "realtime" if preset == "ultrafast" else "good"
        return ["-deadline", deadline, "-cpu-used", str(_VP9_SPEED[preset]), "-row-mt", "1"]
    return ["-preset", str(_AV1_PRESET[preset]) if codec == "av1" else preset]


def _quality(rendition: Rendition) -> list[str]:
    """Constant quality, or a bitrate whose peaks stay within 1.5 times over two seconds."""
    rate = rendition.video_bitrate_kbps
    if rate is None:
        crf = _DEFAULT_CRF[rendition.codec] if rendition.crf is None else rendition.crf
        # vp9 takes crf for constant quality only where the bitrate is 0.
        return ["-crf", str(crf), *(("-b:v", "0") if rendition.codec == "vp9" else ())]
    words = ["-b:v", f"{rate}k"]
    if rendition.codec != "av1":  # SVT-AV1 refuses a peak rate outside constant quality
        words += ["-maxrate", f"{rate * 3 // 2}k", "-bufsize", f"{rate * 2}k"]
    return words


def _codec_details(rendition: Rendition, threads: int, x265: str) -> list[str]:
    if rendition.codec != "hevc":
        return []
    # x265 takes its worker threads from here, and "-threads" for frames only; hvc1 is the tag
    # Apple's players ask for.
    return [*tag(rendition), "-x265-params", f"pools={threads}:log-level=error{x265}"]


def tag(rendition: Rendition) -> list[str]:
    """The name of the codec in the file, where ffmpeg's own choice does not play everywhere."""
    apple = rendition.codec == "hevc" and rendition.container == "mp4"
    return ["-tag:v", "hvc1"] if apple else []


def stills(
    params: TranscodeParams,
    source: Source,
    folder: Path,
    *,
    done: int = 0,
    start: float | None = None,
) -> list[str]:
    """One still from the middle of each of `count` equal parts.

    The first frame decoded is written as well, under the number before: an output without any
    would be an error, and the length of a source is not always what it says.

    Args:
        done: how many of them are there already; the rest is written.
        start: the time of the source's first frame, in seconds, if decoding does not begin there.
    """
    thumbnails = params.thumbnails
    height = min(thumbnails.height, max(2, source.height // 2 * 2))
    interval = source.video_duration / thumbnails.count
    frames = thumbnails.count - done + 1
    # A frame right in the middle is taken, whichever way its time was rounded.
    middle = f"(selected_n+{done - 0.5})*{interval:.6f}-0.00001"
    since = "t-start_t" if start is None else f"t-{start:.6f}"
    jpeg = thumbnails.format == "jpeg"
    filters = [
        deinterlacing(source, params.deinterlace),
        f"select='eq(n,0)+lt(selected_n,{frames})*gte({since},{middle})'",
        *colours(source, None, scaled(source, height)),
        # JPEG has the full range of values and video has not: without it blacks would be grey.
        *(["scale=out_range=full"] if jpeg else []),
        "setsar=1",
        f"format={'yuv420p' if jpeg else 'rgb24'}",
    ]
    target = pattern(folder, THUMBNAIL_PATTERN + thumbnails.suffix)
    return [
        *("-map", f"0:{source.video_index}", "-an", *NO_METADATA),
        *("-vf", ",".join(filter(None, filters))),
        *("-fps_mode", "passthrough", "-frames:v", str(frames)),
        *("-c:v", "mjpeg" if jpeg else "png", *(("-q:v", "3") if jpeg else ())),
        *("-threads:v", "1", "-f", "image2", "-atomic_writing", "1"),
        *("-start_number", str(done), target),
    ]


def pattern(folder: Path, name: str) -> str:
    """A target whose name is a pattern; a percent sign of the folder is none, so it is doubled."""
    return f"file:{Path(os.fspath(folder).replace('%', '%%')) / name}"
