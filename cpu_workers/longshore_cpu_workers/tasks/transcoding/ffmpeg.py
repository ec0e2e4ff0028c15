"""Builds the one command that decodes once and writes every rendition and thumbnail.

Pure: nothing here touches a file. Every word of the command is a constant, a number, a value
of a closed choice, or a path of ours behind `file:`, so that a name can be no option.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from longshore_cpu_workers.tasks.transcoding.params import (
    Codec,
    Preset,
    Rendition,
    Thumbnails,
    TranscodeParams,
)
from longshore_cpu_workers.tasks.transcoding.probe import (
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STREAMS,
    PROTOCOLS,
    Source,
)

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
_MUXERS = {"mp4": "mp4", "webm": "webm", "mkv": "matroska"}


def command(
    program: str, source: Source, params: TranscodeParams, folder: Path, *, cores: int
) -> list[str]:
    """The command line, program first.

    Args:
        program: the ffmpeg binary.
        source: the probed input.
        params: what is asked for.
        folder: where the outputs are written, under the names of their artifacts.
        cores: how many cores this process may use; a bound for the threads.
    """
    threads = thread_count(params.threads, cores)
    shares = encoder_threads([scaled(source, r.height) for r in params.renditions], threads)
    words = [program, *_global_options(), *_input_options(source, threads)]
    for rendition, share in zip(params.renditions, shares, strict=True):
        words += _rendition(rendition, source, folder, share)
    if params.thumbnails.count:
        words += _thumbnails(params.thumbnails, source, folder)
    return words


def thread_count(asked: int, cores: int) -> int:
    """Threads for a job that asked for so many, 0 for the default, on so many cores."""
    return max(1, min(asked or DEFAULT_THREADS, cores))


def encoder_threads(sizes: list[tuple[int, int]], threads: int) -> list[int]:
    """Shares the threads by pixels, one at least: the largest picture is the longest wait."""
    total = sum(width * height for width, height in sizes)
    return [max(1, math.ceil(threads * width * height / total)) for width, height in sizes]


def scaled(source: Source, height: int) -> tuple[int, int]:
    """Width and height of an output, both even, in the shape of the source."""
    width = round(source.width * height / source.height / 2) * 2
    return max(2, min(width, MAX_SIDE)), height


def _global_options() -> list[str]:
    # "level+" marks each line of stderr with its severity; reports go to stdout.
    words = ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-nostats"]
    return [*words, "-stats_period", str(REPORT_PERIOD), "-progress", "pipe:1", "-y"]


def _input_options(source: Source, threads: int) -> list[str]:
    return [
        *("-protocol_whitelist", PROTOCOLS),
        *("-format_whitelist", source.demuxer, "-f", source.demuxer),
        *("-max_streams", str(MAX_STREAMS), "-max_pixels", str(MAX_PIXELS)),
        *("-threads", str(threads), "-i", f"file:{source.path}"),
    ]


def _rendition(rendition: Rendition, source: Source, folder: Path, threads: int) -> list[str]:
    width, height = scaled(source, rendition.height)
    return [
        *("-map", f"0:{source.video_index}", *_sound(rendition, source)),
        *("-map_metadata", "-1", "-map_chapters", "-1"),
        *("-vf", f"scale={width}:{height},setsar=1,format=yuv420p"),
        *("-c:v", _ENCODERS[rendition.codec], "-threads:v", str(threads)),
        *_preset(rendition.codec, rendition.preset),
        *_quality(rendition),
        *_codec_details(rendition, threads),
        *(("-movflags", "+faststart") if rendition.container == "mp4" else ()),
        *("-f", _MUXERS[rendition.container], f"file:{folder / rendition.artifact}"),
    ]


def _sound(rendition: Rendition, source: Source) -> list[str]:
    if rendition.audio_codec is None or source.audio_index is None:
        return ["-an"]
    return [
        *("-map", f"0:{source.audio_index}", "-c:a", _AUDIO_ENCODERS[rendition.audio_codec]),
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


def _codec_details(rendition: Rendition, threads: int) -> list[str]:
    if rendition.codec != "hevc":
        return []
    # x265 takes its worker threads from here, and "-threads" for frames only; hvc1 is the tag
    # Apple's players ask for.
    tag = ["-tag:v", "hvc1"] if rendition.container == "mp4" else []
    return [*tag, "-x265-params", f"pools={threads}:log-level=error"]


def _thumbnails(thumbnails: Thumbnails, source: Source, folder: Path) -> list[str]:
    """One still from the middle of each of `count` equal parts."""
    height = min(thumbnails.height, max(2, source.height // 2 * 2))
    width = scaled(source, height)[0]
    interval = source.video_duration / thumbnails.count
    select = (
        f"select='lt(selected_n,{thumbnails.count})*gte(t-start_t,(selected_n+0.5)*{interval:.6f})'"
    )
    jpeg = thumbnails.format == "jpeg"
    # JPEG has the full range of values and video has not: without it blacks would be grey.
    full, pixels = (":out_range=full", "yuv420p") if jpeg else ("", "rgb24")
    # The pattern is image2's own, so a percent sign of the folder is doubled.
    target = Path(os.fspath(folder).replace("%", "%%")) / (THUMBNAIL_PATTERN + thumbnails.suffix)
    return [
        *("-map", f"0:{source.video_index}", "-an", "-map_metadata", "-1"),
        *("-vf", f"{select},scale={width}:{height}{full},setsar=1,format={pixels}"),
        *("-fps_mode", "passthrough", "-frames:v", str(thumbnails.count)),
        *("-c:v", "mjpeg" if jpeg else "png", *(("-q:v", "3") if jpeg else ())),
        *("-threads:v", "1", "-f", "image2", "-start_number", "1", f"file:{target}"),
    ]
