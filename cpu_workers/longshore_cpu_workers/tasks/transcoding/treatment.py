"""What is done to a picture beside scaling, so that it looks as it was meant to.

Each choice is one that a careful encoder makes: SDR screens get SDR, progressive screens get whole
frames, and a file says by which matrix its colours were made. Pure, as `ffmpeg` is.
"""

from __future__ import annotations

from longshore_cpu_workers.tasks.transcoding.params import Deinterlace, Rendition, TranscodeParams
from longshore_cpu_workers.tasks.transcoding.probe import Source

# Transfer functions by their numbers in ITU-T H.273.
HDR = {16: "PQ", 18: "HLG"}
HD_HEIGHT = 720
"""From here on pictures are made by BT.709, below it by BT.601: what players assume of a file that
does not say."""

# To linear light, into the primaries of SDR, its highlights compressed, and back.
_TONE_MAP = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0"
    ",zscale=t=bt709:m=bt709:r=tv"
)


def deinterlacing(source: Source, how: Deinterlace) -> str:
    """The filter that makes whole frames of fields, or nothing."""
    if how == "never" or (how == "auto" and not source.interlaced):
        return ""
    return f"bwdif=mode=send_frame:deint={'interlaced' if how == 'auto' else 'all'}"


def tone_mapped(source: Source, rendition: Rendition | None) -> bool:
    """True if HDR becomes SDR; None is a thumbnail."""
    return source.transfer in HDR and (rendition is None or rendition.hdr == "tonemap")


def colours(source: Source, rendition: Rendition | None, size: tuple[int, int]) -> list[str]:
    """The filters that scale a picture and bring it to the colours of an output."""
    width, height = size
    if tone_mapped(source, rendition):
        return [f"scale={width}:{height}", _TONE_MAP]
    background = ["premultiply=inplace=1"] if source.alpha else []  # black shows through
    if not source.rgb:
        return [*background, f"scale={width}:{height}"]
    matrix, tag = ("bt709", "bt709") if height >= HD_HEIGHT else ("bt601", "smpte170m")
    said = f"setparams=colorspace={tag}:color_primaries={tag}:color_trc={tag}:range=tv"
    return [*background, f"scale={width}:{height}:out_color_matrix={matrix}:out_range=tv", said]


def pixels(source: Source, rendition: Rendition) -> str:
    """How the values of a picture are kept: 8 bits, or 10 for HDR that stays HDR."""
    stays = source.transfer in HDR and rendition.hdr == "keep"
    return "yuv420p10le" if stays else "yuv420p"


def notes(source: Source, params: TranscodeParams) -> list[str]:
    """What was done that nobody asked for by name."""
    done = list(source.notes)
    if deinterlacing(source, params.deinterlace):
        done.append("the picture was deinterlaced")
    if any(tone_mapped(source, rendition) for rendition in params.renditions):
        done.append(f"HDR ({HDR[source.transfer]}) was mapped to SDR, BT.709")
    if source.rgb:
        done.append("RGB became BT.709 from 720 lines on, BT.601 below")
    if source.alpha:
        done.append("transparent parts show black")
    return done
