"""Looks into a media file before ffmpeg is started, and refuses what is not a plain video.

A playlist or a concat script names other files, and ffmpeg opens them, local ones too, with
`-protocol_whitelist file`. So the demuxers are a closed list of formats that are complete in
one file; the same list goes into ffmpeg's own command.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.sdk import PermanentError

if TYPE_CHECKING:
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
        channels: audio channels; 0 without sound.
        size: bytes.
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


def probe(path: Path) -> Source:
    """Reads the header and decodes one frame: what cannot be decoded is refused here.

    Raises:
        PermanentError: NOT_A_VIDEO, or VIDEO_TOO_LARGE above 16,384 pixels a side.
    """
    import av  # noqa: PLC0415  0.2 s, wanted by this task alone

    size = path.stat().st_size
    if size == 0:
        raise not_a_video("the file is empty")
    try:
        with av.open(f"file:{path}", options=_OPTIONS, timeout=_OPEN_TIMEOUT) as container:
            return _inspect(container, path, size)
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
    audio = container.streams.audio[0] if container.streams.audio else None
    whole, picture = _durations(container, stream)
    return Source(
        path=path,
        demuxer=container.format.name.split(",")[0],
        duration=whole,
        video_duration=picture,
        video_index=stream.index,
        video_codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=int(frame.rotation) % 360,
        frame_rate=float(stream.average_rate or stream.guessed_rate or 0),
        audio_index=audio.index if audio else None,
        audio_codec=audio.codec_context.codec.canonical_name if audio else None,
        channels=audio.codec_context.channels if audio else 0,
        size=size,
    )


def _video_stream(container: InputContainer) -> VideoStream:
    """The first stream of moving pictures; a cover of a song is none."""
    from av.stream import Disposition  # noqa: PLC0415  as above

    if container.metadata.get("major_brand", "").strip() in _PICTURE_BRANDS:
        raise not_a_video("it is a still picture")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
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
    return (height, width) if frame.rotation % 180 else (width, height)


def _durations(container: InputContainer, stream: VideoStream) -> tuple[float, float]:
    """Seconds of the whole and of the picture; read from the packets where no header says."""
    whole = (container.duration or 0) / 1_000_000
    if stream.duration and stream.time_base:
        picture = float(stream.duration * stream.time_base)
    else:
        picture = whole or _last_timestamp(container, stream)
    return whole or picture, picture


def _last_timestamp(container: InputContainer, stream: VideoStream) -> float:
    """Seconds to the end of the last packet: a live recording has no duration in its header."""
    base = stream.time_base or Fraction(1, 1000)
    ends = (
        (packet.pts + (packet.duration or 0)) * base
        for packet in container.demux(stream)
        if packet.pts is not None
    )
    return float(max(ends, default=Fraction(0)) - (stream.start_time or 0) * base)
