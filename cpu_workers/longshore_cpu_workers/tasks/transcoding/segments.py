"""The commands for a long video: its pictures in segments, then each rendition put together.

An ffmpeg decodes once, as for a short one, but writes the picture of each rendition as a row of
MP4 files of some seconds each (a *track*), which a later attempt can build on. A segment begins
with a keyframe that needs nothing before it. Times are kept: the first frame of a segment has
the time that it has in the source. The sound is one file: cut and joined it would click.

Pure, and under the same rule as `ffmpeg`: no word of a command is a caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from longshore_cpu_workers.tasks.transcoding import ffmpeg
from longshore_cpu_workers.tasks.transcoding.params import Rendition, TranscodeParams
from longshore_cpu_workers.tasks.transcoding.parts import Part
from longshore_cpu_workers.tasks.transcoding.probe import PROTOCOLS, Source

# What a kill costs at the most, and a little more. A checkpoint lists every segment, so there is
# a bound to them: beyond an hour they become longer. With 8 renditions that is 70 KiB.
SEGMENT_SECONDS = 10.0
MAX_SEGMENTS = 360

# Formats whose index leads to a keyframe at or before a time. From the others a resume decodes
# all and encodes what is missing.
_SEEKABLE = ("mov", "matroska")
# Decoded and thrown away: some files call a frame a keyframe that needs some before it.
_RUN_UP = 2.0
# Less than the distance of two frames, more than what a time loses as decimal digits.
_EPSILON = 2e-5


class Todo(NamedTuple):
    """What an ffmpeg is to add to what is there already.

    Attributes:
        segments: of each rendition, how many are there.
        after: of each rendition, the time of its last frame that is there; None without any.
        start: the time of the first frame of all; None where nothing is there.
        stills: how many thumbnails are there.
    """

    segments: tuple[int, ...]
    after: tuple[float | None, ...]
    start: float | None = None
    stills: int = 0


class Sound(NamedTuple):
    """A sound that one or more renditions have."""

    codec: str
    kbps: int
    container: str

    def name(self) -> str:
        """Its file."""
        return f"sound-{self.codec}-{self.kbps}.{self.container}"


def segmented(source: Source) -> bool:
    """True where it is long enough that a lost attempt is worth the files."""
    return source.video_duration > 2 * SEGMENT_SECONDS


def segment_seconds(source: Source) -> float:
    """The length of its segments."""
    return max(SEGMENT_SECONDS, math.ceil(source.video_duration / MAX_SEGMENTS))


def segment_name(rendition: int, number: int) -> str:
    """The file of a segment."""
    return f"{rendition}-{number:05}.mp4"


def still_name(params: TranscodeParams, number: int) -> str:
    """The file of a thumbnail, from 1."""
    return ffmpeg.THUMBNAIL_PATTERN % number + params.thumbnails.suffix


def sound_of(rendition: Rendition, source: Source) -> Sound | None:
    """The sound of a rendition, None for silence."""
    if rendition.audio_codec is None or source.audio_index is None:
        return None
    return Sound(rendition.audio_codec, rendition.audio_bitrate_kbps, rendition.container)


def sounds(params: TranscodeParams, source: Source) -> dict[Sound, Rendition]:
    """Every different sound, with a rendition that has it."""
    each = ((sound_of(rendition, source), rendition) for rendition in params.renditions)
    return {sound: rendition for sound, rendition in each if sound}


def encode_command(
    program: str,
    source: Source,
    params: TranscodeParams,
    folder: Path,
    todo: Todo,
    part: Part,
    *,
    threads: int,
) -> list[str]:
    """The command that writes what is missing of a part into a folder: tracks, and with the extras
    sounds and thumbnails."""
    stills = part.extras and todo.stills < params.thumbnails.count
    seek = _seek(source, _first_needed(source, params, todo, part, stills=stills))
    made = sounds(params, source) if part.extras else {}
    words = [program, *ffmpeg.global_options()]
    # Times are those of the source, its start being 0, in any case; a seek would change that.
    words += ["-copyts", "-start_at_zero"] if seek else []
    words += ffmpeg.input_options(source, threads, seek)
    words += ffmpeg.input_options(source, threads) if seek and made else []
    shares = ffmpeg.shares(source, params, threads)
    for index in part.renditions:
        words += _track(params.renditions[index], source, params, shares[index], todo.after[index])
        words += ["-segment_start_number", str(todo.segments[index])]
        words += [ffmpeg.pattern(folder, f"{index}-%05d.mp4")]
    for sound, rendition in made.items():
        words += ["-map", f"{int(bool(seek))}:{source.audio_index}", "-vn", *ffmpeg.NO_METADATA]
        words += [*ffmpeg.sound(rendition, source), "-f", ffmpeg.MUXERS[rendition.container]]
        words += [f"file:{folder / sound.name()}"]
    if stills:
        words += ffmpeg.stills(params, source, folder, done=todo.stills, start=todo.start)
    return words


def _first_needed(
    source: Source, params: TranscodeParams, todo: Todo, part: Part, *, stills: bool
) -> float:
    """The time before which no frame is needed, not even for a thumbnail."""
    times = [todo.after[index] or 0.0 for index in part.renditions]
    if stills:
        middle = (todo.stills + 0.5) * source.video_duration / params.thumbnails.count
        times.append((todo.start or 0.0) + middle)
    return min(times)


def _seek(source: Source, time: float) -> list[str]:
    begin = time - _RUN_UP
    if begin <= 0 or source.demuxer not in _SEEKABLE:
        return []
    return ["-noaccurate_seek", "-ss", f"{begin:.6f}"]


def _track(
    rendition: Rendition,
    source: Source,
    params: TranscodeParams,
    threads: int,
    after: float | None,
) -> list[str]:
    length = segment_seconds(source)
    select = "" if after is None else f"gt(t,{after + _EPSILON:.6f})"
    # Open groups begin with frames that need the group before; x265 has them unless told.
    return [
        *("-map", f"0:{source.video_index}", "-an"),
        *ffmpeg.picture(rendition, source, params, threads, select=select, x265=":open-gop=0"),
        *(*ffmpeg.TIMES, "-avoid_negative_ts", "disabled"),
        *("-force_key_frames", f"expr:isnan(prev_forced_t)+gte(t,prev_forced_t+{length:g})"),
        *(("-forced-idr", "1") if rendition.codec in {"h264", "hevc"} else ()),
        *("-f", "segment", "-segment_time", f"{length:g}", "-segment_format", "mp4"),
        *("-segment_format_options", "movie_timescale=1000000"),
    ]


def playlist(paths: Sequence[Path], starts: Sequence[int]) -> str:
    """A script for ffmpeg's concat demuxer: files in order, and their starts in microseconds."""
    lengths = [f"duration {(b - a) / 1e6:.6f}\n" for a, b in pairwise(starts)]
    # With the protocol, a path is taken as it is; a relative one would be resolved as a URL.
    quoted = (str(path).replace("'", "'\\''") for path in paths)
    files = [f"file 'file:{path}'\n" for path in quoted]
    parts = zip(files, [*lengths, ""], strict=True)
    return "ffconcat version 1.0\n" + "".join(file + length for file, length in parts)


def assemble_command(
    program: str,
    rendition: Rendition,
    tracklist: Path,
    start: int,
    sound: Path | None,
    folder: Path,
) -> list[str]:
    """The command that makes a rendition of its track and its sound; nothing is encoded.

    Args:
        tracklist: the file with the `playlist`.
        start: the time of the track's first frame, in microseconds.
        sound: the file with the sound, if it has some.
        folder: where the rendition is written.
    """
    words = [program, *ffmpeg.global_options(), "-copyts"]
    words += ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", "concat,mov", "-f", "concat"]
    words += ["-safe", "0"]  # absolute paths, and the script is ours
    words += ["-auto_convert", "0", "-itsoffset", f"{start / 1e6:.6f}", "-i", f"file:{tracklist}"]
    if sound is not None:
        demuxer = "mov" if rendition.container == "mp4" else "matroska"
        words += ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", demuxer, "-f", demuxer]
        words += ["-i", f"file:{sound}"]
    words += ["-map", "0:v", *(("-map", "1:a") if sound is not None else ()), "-c", "copy"]
    return [
        *words,
        *ffmpeg.NO_METADATA,
        *ffmpeg.tag(rendition),
        *ffmpeg.container(rendition, folder),
    ]
