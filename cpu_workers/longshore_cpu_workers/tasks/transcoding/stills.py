"""Thumbnails that the length of a source led astray, taken from what came out instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from longshore.sdk import Context
from longshore_cpu_workers.tasks.transcoding import ffmpeg
from longshore_cpu_workers.tasks.transcoding.execution import run_ffmpeg
from longshore_cpu_workers.tasks.transcoding.params import TranscodeParams
from longshore_cpu_workers.tasks.transcoding.probe import Source


def complete_stills(
    ctx: Context, program: str, outputs: Sequence[Source], params: TranscodeParams, folder: Path
) -> list[str]:
    """The names of the thumbnails in a folder, in order of time.

    A source may say that it is longer than its picture: then some, or all, were beyond its end. The
    largest rendition has true times, so they are taken from that; of a picture with fewer frames
    there are fewer, one at the least.
    """
    count = params.thumbnails.count
    if not count:
        return []
    if len(_there(params, folder)) < count:
        best = max(outputs, key=lambda output: output.height)
        argv = [
            *(program, *ffmpeg.global_options()),
            *ffmpeg.input_options(best, 1),
            *ffmpeg.stills(params, best, folder),
        ]
        run_ffmpeg(argv, ctx, lambda _: None)
    first = folder / (ffmpeg.THUMBNAIL_PATTERN % 0 + params.thumbnails.suffix)
    if not _there(params, folder):
        first.rename(folder / (ffmpeg.THUMBNAIL_PATTERN % 1 + params.thumbnails.suffix))
    first.unlink(missing_ok=True)
    return _there(params, folder)


def _there(params: TranscodeParams, folder: Path) -> list[str]:
    names = (
        ffmpeg.THUMBNAIL_PATTERN % number + params.thumbnails.suffix
        for number in range(1, params.thumbnails.count + 1)
    )
    return [name for name in names if (folder / name).exists()]
