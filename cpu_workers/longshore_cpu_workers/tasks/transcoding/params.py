"""What a transcode job may ask for: closed choices and bounds, never arguments of ffmpeg."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Codec = Literal["h264", "hevc", "vp9", "av1"]
AudioCodec = Literal["aac", "opus"]
Container = Literal["mp4", "webm", "mkv"]
Deinterlace = Literal["auto", "always", "never"]
Preset = Literal["ultrafast", "veryfast", "fast", "medium", "slow"]

MAX_HEIGHT = 4320


class Carries(NamedTuple):
    """What a container holds here; the first audio codec is what `audio: auto` means."""

    video: tuple[Codec, ...]
    audio: tuple[AudioCodec, ...]


# Narrower than what the muxers accept: what browsers and players of each container play.
CONTAINERS: dict[Container, Carries] = {
    "mp4": Carries(("h264", "hevc", "av1"), ("aac", "opus")),
    "webm": Carries(("vp9", "av1"), ("opus",)),
    "mkv": Carries(("h264", "hevc", "vp9", "av1"), ("aac", "opus")),
}
HDR_CODECS: tuple[Codec, ...] = ("hevc", "av1")
MAX_CRF: dict[Codec, int] = {"h264": 51, "hevc": 51, "vp9": 63, "av1": 63}


class Strict(BaseModel):
    """A field that is not known is an error: a misspelt option must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rendition(Strict):
    """One output. Its artifact is `<name>.<container>`."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$",
        description="Letters, digits, '_' and '-'; unique within the job.",
    )
    height: int = Field(
        ge=16,
        le=MAX_HEIGHT,
        multiple_of=2,
        description="Pixels, even. The width follows from the source's shape. A height above "
        "the source's is refused, or left out (on_upscale): nothing is scaled up.",
    )
    codec: Codec = "h264"
    container: Container = "mp4"
    preset: Preset = Field(default="veryfast", description="Slower is smaller at the same quality.")
    crf: int | None = Field(
        default=None,
        ge=0,
        le=63,
        description="Constant quality, lower is better; to 51 for h264 and hevc.",
    )
    video_bitrate_kbps: int | None = Field(
        default=None, ge=50, le=200_000, description="Average bitrate, instead of crf."
    )
    hdr: Literal["tonemap", "keep"] = Field(
        default="tonemap",
        description="What becomes of a picture in HDR (PQ or HLG). tonemap: 8 bit SDR, which every "
        "screen shows right. keep: 10 bit HDR, for hevc and av1.",
    )
    audio: Literal["auto", "aac", "opus", "none"] = Field(
        default="auto",
        description="auto: aac in mp4 and mkv, opus in webm; no sound if there is none.",
    )
    audio_bitrate_kbps: int = Field(default=128, ge=16, le=512)

    @property
    def artifact(self) -> str:
        """The name of the file it becomes."""
        return f"{self.name}.{self.container}"

    @property
    def audio_codec(self) -> AudioCodec | None:
        """What sound is encoded with, or None for silence."""
        if self.audio == "none":
            return None
        return CONTAINERS[self.container].audio[0] if self.audio == "auto" else self.audio

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        carries = CONTAINERS[self.container]
        if self.codec not in carries.video:
            raise ValueError(_cannot_hold(self.container, self.codec, carries.video))
        if self.audio_codec is not None and self.audio_codec not in carries.audio:
            raise ValueError(_cannot_hold(self.container, self.audio_codec, carries.audio))
        if self.crf is not None and self.video_bitrate_kbps is not None:
            raise ValueError("crf and video_bitrate_kbps exclude each other; give one of them")
        if self.hdr == "keep" and self.codec not in HDR_CODECS:
            held = ", ".join(HDR_CODECS)
            raise ValueError(f"hdr 'keep' is for {held}; {self.codec} has 8 bits: use 'tonemap'")
        if self.crf is not None and self.crf > MAX_CRF[self.codec]:
            raise ValueError(
                f"crf {self.crf} is above {MAX_CRF[self.codec]}, the most {self.codec} has"
            )
        return self


def _cannot_hold(container: str, codec: str, held: tuple[str, ...]) -> str:
    return f"{container} does not hold {codec} here; it holds {', '.join(held)}"


class Thumbnails(Strict):
    """Stills at even distances. Their artifacts are `thumb-001.jpg` (or `.png`) and so on."""

    count: int = Field(
        default=0, ge=0, le=50, description="How many; a source with fewer frames gives fewer."
    )
    height: int = Field(
        default=180,
        ge=16,
        le=2160,
        multiple_of=2,
        description="Pixels, even; the source's height where that is lower.",
    )
    format: Literal["jpeg", "png"] = "jpeg"

    @property
    def suffix(self) -> str:
        """The suffix of their files, with its dot."""
        return ".jpg" if self.format == "jpeg" else ".png"


class TranscodeParams(Strict):
    """The payload of a transcode job; the video itself is the job's input `video`."""

    renditions: list[Rendition] = Field(min_length=1, max_length=8)
    thumbnails: Thumbnails = Thumbnails()
    audio_language: str = Field(
        default="",
        pattern=r"^([a-z]{2,3})?$",
        description="Language of the sound to take, as the file names it, such as deu. Without it "
        "and audio_stream, the stream that is marked as default is taken, else the first.",
    )
    audio_stream: int | None = Field(
        default=None, ge=0, lt=64, description="The sound stream to take, counted from 0."
    )
    deinterlace: Deinterlace = Field(
        default="auto", description="auto: what the source marks as interlaced."
    )
    on_damage: Literal["accept", "fail"] = Field(
        default="accept",
        description="What follows if parts of the source cannot be decoded. accept: as a player, "
        "go on with what can be; the result says `damaged`. fail: SOURCE_DAMAGED.",
    )
    on_upscale: Literal["fail", "skip"] = Field(
        default="fail",
        description="What follows if a rendition is higher than the source. skip: it is left out, "
        "which suits a fixed ladder of heights; the result names it.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Threads for ffmpeg; 0 takes 2, the cores a transcode asks for by default. "
        "A job that asks for more cores says so here as well.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        counts = Counter(rendition.name for rendition in self.renditions)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            raise ValueError(f"renditions share the name {', '.join(twice)}; rename one of them")
        if self.audio_language and self.audio_stream is not None:
            raise ValueError("audio_language and audio_stream exclude each other; give one of them")
        return self


class SourceFacts(BaseModel):
    """What the input turned out to be; sizes in pixels as displayed, after rotation."""

    format: str
    size: int = Field(description="Bytes.")
    width: int
    height: int
    rotation: int = Field(description="Degrees that were applied: 0, 90, 180 or 270.")
    frame_rate: float
    video_codec: str
    audio_codec: str | None
    audio_stream: int | None = Field(description="The sound stream taken, counted from 0.")
    interlaced: bool
    hdr: str | None = Field(description="PQ or HLG; null for SDR.")


class Damage(BaseModel):
    """What of the source could not be decoded."""

    errors: int = Field(description="Errors of ffmpeg while it read the source.")
    first_error: str
    lost_seconds: float = Field(
        description="How much shorter the picture became than the file says that it is."
    )


class RenditionResult(BaseModel):
    """One rendition, as measured in the finished file."""

    name: str
    artifact: str
    width: int
    height: int
    codec: str
    audio_codec: str | None
    duration: float = Field(description="Seconds.")
    size: int = Field(description="Bytes.")


class TranscodeResult(BaseModel):
    """The result of a transcode job; the files are its artifacts."""

    duration: float = Field(description="Seconds of the source.")
    source: SourceFacts
    renditions: list[RenditionResult]
    thumbnails: list[str] = Field(
        description="Names of artifacts, in order of time; fewer than asked if the picture has "
        "fewer frames."
    )
    skipped: list[str] = Field(
        default_factory=list, description="Names of renditions that are higher than the source."
    )
    damaged: bool = Field(default=False, description="True if `damage` says what was lost.")
    damage: Damage | None = None
    notes: list[str] = Field(
        default_factory=list, description="What was chosen or done without being asked for by name."
    )
    seconds: float = Field(description="How long ffmpeg ran, in the attempt that succeeded.")
    resumed_at: float = Field(
        default=0.0, description="Seconds of the source that earlier attempts had encoded."
    )
