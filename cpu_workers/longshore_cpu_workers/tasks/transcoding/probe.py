"""Looks into a media file before ffmpeg is started, and refuses what is not a plain video.

A playlist or a concat script names other files, and ffmpeg opens them, local ones too, with
`-protocol_whitelist file`. So the demuxers are a closed list of formats that are complete in
one file; the same list goes into ffmpeg's own command.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.sdk import PermanentError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DEMUXERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf")
PROTOCOLS = "file,pipe"
MAX_STREAMS = 64
MAX_SIDE = 16384
MAX_PIXELS = 8192 * 8192

_OPTIONS = {
    "protocol_whitelist": PROTOCOLS,
    "format_whitelist": ",".join(DEMUXERS),
    "max_streams": str(MAX_STREAMS),
}
_OPEN_TIMEOUT = 30.0
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Their times may jump, at a splice or after an hour of silence.
_JUMPING = ("mpegts", "mpeg")
_CLOCK = re.compile(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")
# AVIF and HEIC pictures are boxes of MP4: the demuxer alone does not tell them from a video.
_PICTURE_BRANDS = {"avif", "avis", "heic", "heix", "mif1"}
_READS = "MP4, MOV, Matroska, WebM, AVI, MPEG-TS, MPEG-PS, FLV, ASF, Ogg and MXF are read"


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a media file.

    Attributes:
        path: the file.
        demuxer: ffmpeg's name of the format, one of `DEMUXERS`.
        duration: seconds of the whole; 0 where it cannot be known.
        video_duration: seconds of the picture alone.
        video_index, audio_index: the streams taken; audio_index is None without sound.
        width, height: as displayed, in pixels: after rotation, with square pixels.
        rotation: degrees, clockwise or not as the file says: 0, 90, 180, 270.
        decoder: the decoder that ffmpeg takes for the picture, if not its own choice.
        audio_stream: the number of the sound taken among all sounds, from 0.
        channels: audio channels; 0 without sound.
        size: bytes.
        interlaced: True if frames hold two fields. transfer: by ITU-T H.273; 0 if not said.
        rgb, alpha: True if the picture is in RGB, and if it has transparent parts.
        steady: True if the length of the picture can be relied on.
        notes: what was passed over.
    """

    path: Path
    demuxer: str
    duration: float
    video_duration: float
    video_index: int
    video_codec: str
    width: int
    height: int
    rotation: int
    frame_rate: float
    audio_index: int | None
    audio_codec: str | None
    channels: int
    size: int
    audio_stream: int | None = None
    interlaced: bool = False
    transfer: int = 0
    rgb: bool = False
    alpha: bool = False
    steady: bool = True
    decoder: str = ""
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """All but where it lies: what tells it from another."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


def not_a_video(why: str) -> PermanentError:
    """NOT_A_VIDEO, as one sentence."""
    return PermanentError(
        f"the input 'video' is not a video that can be transcoded: {why}",
        reason="NOT_A_VIDEO",
        code="INVALID_ARGUMENT",
        metadata={"input": "video"},
    )


def refuse_cut_off(warnings: Iterable[str]) -> None:
    """Raises NOT_A_VIDEO where ffmpeg found the source to end in the middle of a frame."""
    if any("ended prematurely" in line for line in warnings):
        raise not_a_video("it is cut off: the file ends before its last frame")


def probe(path: Path, *, language: str = "", sound: int | None = None) -> Source:
    """Reads the header and decodes one frame: what cannot be decoded is refused here.

    Args:
        language: of the sound to take. sound: its number instead. Without both, the sound that is
            marked as default, else the first.

    Raises:
        PermanentError: NOT_A_VIDEO, NO_SUCH_SOUND, or VIDEO_TOO_LARGE above 16,384 pixels a side.
    """
    import av  # noqa: PLC0415  0.2 s, wanted by this task alone

    size = path.stat().st_size
    if size == 0:
        raise not_a_video("the file is empty")
    try:
        with av.open(f"file:{path}", options=_OPTIONS, timeout=_OPEN_TIMEOUT) as container:
            picture = _inspect(container, path, size)
            return _with_sound(picture, container, language, sound)
    except (av.FFmpegError, OSError) as error:
        raise not_a_video(f"{_cause(error)}; {_READS}") from error


def _cause(error: Exception) -> str:
    """av tells a refused demuxer as an invalid argument, and one it doesn't know as bad data."""
    text = str(getattr(error, "strerror", None) or error)
    if "Invalid argument" in text:
        return "its format is not one of those allowed (no playlists, pictures or raw streams)"
    if "Invalid data" in text:
        return "it is damaged, cut off, or no media file at all"
    return f"it cannot be opened ({text})"


def _inspect(container: InputContainer, path: Path, size: int) -> Source:
    stream = _video_stream(container)
    if len(container.streams) > MAX_STREAMS:
        raise not_a_video(f"it has {len(container.streams)} streams, above {MAX_STREAMS}")
    _refuse_truncated(container, size)
    frame = _first_frame(container, stream)
    width, height = _display_size(frame, stream.sample_aspect_ratio)
    whole, picture, steady = _durations(container, stream)
    codec = stream.codec_context.codec.canonical_name
    # ffmpeg's own decoders of these two leave out what is transparent.
    layered = codec in _ALPHA_DECODERS and stream.metadata.get("alpha_mode") == "1"
    return Source(
        path=path,
        demuxer=container.format.name.split(",")[0],
        duration=whole,
        video_duration=picture,
        video_index=stream.index,
        video_codec=codec,
        width=width,
        height=height,
        rotation=_quarter_turns(frame),
        frame_rate=float(stream.average_rate or stream.guessed_rate or 0),
        audio_index=None,
        audio_codec=None,
        channels=0,
        size=size,
        interlaced=bool(frame.interlaced_frame),
        transfer=int(frame.color_trc),
        rgb=bool(frame.format.is_rgb),
        alpha=layered or any(component.is_alpha for component in frame.format.components),
        steady=steady,
        decoder=_ALPHA_DECODERS[codec] if layered else "",
        notes=("the picture was mirrored, as the file says",) if _mirrored(frame) else (),
    )


def _with_sound(
    source: Source, container: InputContainer, language: str, number: int | None
) -> Source:
    """The source with the sound that is to be taken, if there is one that can be decoded."""
    streams = container.streams.audio
    known = [n for n, stream in enumerate(streams) if _is_known(stream)]
    wanted = known
    if number is not None:
        wanted = [n for n in known if n == number]
    elif language:
        wanted = [n for n in known if _language(streams[n]) == language]
    if not wanted and (language or number is not None):
        raise _no_such_sound(streams, f"number {number}" if number is not None else language)
    notes = (*source.notes, *_about_sounds(len(streams), len(known)))
    if not wanted:
        return replace(source, notes=notes)
    chosen = next((n for n in wanted if _is_default(streams[n])), wanted[0])
    if len(known) > 1:
        notes = (*notes, f"of {len(known)} sounds, number {chosen} was taken")
    context = streams[chosen].codec_context
    return replace(
        source,
        audio_index=streams[chosen].index,
        audio_codec=context.codec.canonical_name,
        channels=context.channels,
        audio_stream=chosen,
        notes=notes,
    )


def _about_sounds(count: int, known: int) -> tuple[str, ...]:
    if count == known:
        return ()
    left = "no sound is left" if not known else "another one was taken"
    return (f"{count - known} of {count} sounds have a codec that is not known here; {left}",)


def _is_known(stream: VideoStream | AudioStream) -> bool:
    """False for a codec that there is no decoder for; av's types do not say that."""
    context: object = stream.codec_context
    return context is not None


def _is_default(stream: AudioStream) -> bool:
    from av.stream import Disposition  # noqa: PLC0415  as in `probe`

    return bool(stream.disposition & Disposition.default)


def _language(stream: AudioStream) -> str:
    return str(stream.metadata.get("language", ""))


def _no_such_sound(streams: Sequence[AudioStream], wanted: str) -> PermanentError:
    there = ", ".join(f"{n} ({_language(stream) or '?'})" for n, stream in enumerate(streams))
    return PermanentError(
        f"the input 'video' has no sound {wanted} that can be decoded; it has {there or 'none'}",
        reason="NO_SUCH_SOUND",
        code="INVALID_ARGUMENT",
        metadata={"input": "video"},
    )


def _video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover of a song is none."""
    from av.stream import Disposition  # noqa: PLC0415  as above

    if container.metadata.get("major_brand", "").strip() in _PICTURE_BRANDS:
        raise not_a_video("it is a still picture")
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    for stream in moving:
        if _is_known(stream):
            return stream
    if moving:
        raise not_a_video("its picture has a codec that is not known here")
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise not_a_video(f"it holds no moving pictures (its streams: {kinds})")


def _refuse_truncated(container: InputContainer, size: int) -> None:
    """An index that points past the end of the file: its header came first, the rest is gone."""
    for stream in (*container.streams.video, *container.streams.audio):
        entries = stream.index_entries
        if len(entries) and (last := entries[-1]).pos + last.size > size:
            raise not_a_video(f"it is cut off: {size} bytes of at least {last.pos + last.size}")


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    if stream.width > MAX_SIDE or stream.height > MAX_SIDE:
        raise _too_large(stream.width, stream.height)
    frame = next(container.decode(stream), None)
    if frame is None:
        raise not_a_video("not one frame of it can be decoded")
    if frame.width * frame.height > MAX_PIXELS or max(frame.width, frame.height) > MAX_SIDE:
        raise _too_large(frame.width, frame.height)
    return frame


def _too_large(width: int, height: int) -> PermanentError:
    return PermanentError(
        f"the video is {width}x{height}; at most {MAX_SIDE} a side and {MAX_PIXELS} pixels a "
        "frame are transcoded",
        reason="VIDEO_TOO_LARGE",
        code="INVALID_ARGUMENT",
        metadata={"input": "video"},
    )


def _display_size(frame: VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height as a viewer sees them; an absurd pixel shape counts as square."""
    shape = aspect if aspect and Fraction(1, 4) <= aspect <= 4 else Fraction(1)
    width, height = round(frame.width * shape), frame.height
    return (height, width) if _quarter_turns(frame) % 180 else (width, height)


def _quarter_turns(frame: VideoFrame) -> int:
    """Degrees in whole quarters: ffmpeg's own rotation leaves the size as it is for others."""
    degrees = int(frame.rotation) % 360
    if degrees == 180 and _mirrored(frame):
        return 0  # left and right change places; nothing turns
    return degrees if degrees % 90 == 0 else 0


def _mirrored(frame: VideoFrame) -> bool:
    """True if the file asks players to show a mirror image: its matrix turns the picture over."""
    from av.buffer import Buffer  # noqa: PLC0415  as in `probe`

    matrix: object = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    return bool(a * d < b * c)


def _durations(container: InputContainer, stream: VideoStream) -> tuple[float, float, bool]:
    """Seconds of the whole and of the picture, and whether the picture's can be relied on; read
    from the packets if no header says.

    A container's duration may count from 0 although its streams begin later, and where times jump
    it is the distance of the first to the last.
    """
    steady = container.format.name not in _JUMPING
    begin = max(0.0, (container.start_time or 0) / 1_000_000)
    whole = (container.duration or 0) / 1_000_000
    if container.format.name.startswith("matroska"):
        whole = max(0.0, whole - begin)
    if stream.duration and stream.time_base:
        return (
            whole or float(stream.duration * stream.time_base),
            (float(stream.duration * stream.time_base)),
            steady,
        )
    picture = _tagged_duration(stream) or _last_timestamp(container, stream)
    return whole or picture, picture, steady


def _tagged_duration(stream: VideoStream) -> float:
    """What Matroska files say of a stream, as HH:MM:SS.fraction of its end; 0 without it."""
    found = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if found is None:
        return 0.0
    hours, minutes, seconds = found.groups()
    end = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    return max(0.0, end - start)


def _last_timestamp(container: InputContainer, stream: VideoStream) -> float:
    """Seconds to the end of the last packet: a live recording has no duration in its header."""
    base = stream.time_base or Fraction(1, 1000)
    ends = (
        (packet.pts + (packet.duration or 0)) * base
        for packet in container.demux(stream)
        if packet.pts is not None
    )
    return float(max(ends, default=Fraction(0)) - (stream.start_time or 0) * base)
