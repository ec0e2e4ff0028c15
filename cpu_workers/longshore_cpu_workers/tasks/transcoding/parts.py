"""Which outputs of a job share one process of ffmpeg, and what follows when that process crashes.

One process decodes the source once for all renditions. Some encoders do not bear company: x265 and
SVT-AV1 destroy the heap now and then when they encode tiny pictures beside others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from longshore.sdk import Context, TaskError
from longshore_cpu_workers.tasks.transcoding.execution import CRASHED, Said
from longshore_cpu_workers.tasks.transcoding.params import Codec, TranscodeParams

SMALLEST_SHARED: dict[Codec, int] = {"h264": 16, "hevc": 64, "vp9": 16, "av1": 64}
"""Pixels of the shorter side from which on a codec shares a process. At 42x32, ffmpeg 9.0.2 ended
by SIGABRT in 2 to 3 of 60 runs with x265 and SVT-AV1 among its encoders; each alone, never. The
largest block that either works with has 64."""


class Part(NamedTuple):
    """What one process of ffmpeg writes.

    Attributes:
        renditions: their positions in the job.
        extras: True if it writes the thumbnails, and the sounds of a long video, too.
    """

    renditions: tuple[int, ...]
    extras: bool


def whole(params: TranscodeParams) -> Part:
    """Everything in one process."""
    return Part(tuple(range(len(params.renditions))), extras=True)


def shared(params: TranscodeParams, sizes: list[tuple[int, int]]) -> list[Part]:
    """As few processes as are safe. sizes: width and height of each rendition."""
    alone = [
        index
        for index, (rendition, size) in enumerate(zip(params.renditions, sizes, strict=True))
        if min(size) < SMALLEST_SHARED[rendition.codec]
    ]
    together = tuple(index for index in range(len(sizes)) if index not in alone)
    return _parts([*([together] if together else []), *((index,) for index in alone)])


def apart(params: TranscodeParams) -> list[Part]:
    """A process for each rendition."""
    return _parts([(index,) for index in range(len(params.renditions))])


def _parts(groups: list[tuple[int, ...]]) -> list[Part]:
    return [Part(group, extras=number == 0) for number, group in enumerate(groups)]


def run_parts(
    ctx: Context,
    params: TranscodeParams,
    sizes: list[tuple[int, int]],
    run: Callable[[Part, float, float], Said],
) -> Said:
    """Runs a process for each part, one after the other. If one of them crashes, all renditions are
    made once more, each by a process of its own.

    Args:
        run: runs one part, which is so large a share of the work, after so large a share.

    Returns:
        What the process said that met the most errors: each reads the whole source.

    Raises:
        TaskError, PermanentError, JobCancelled: what `run` raised.
    """
    try:
        return _run_all(shared(params, sizes), run)
    except TaskError as error:
        if error.reason != CRASHED:
            raise
        ctx.log.warning("%s; once more, with a process for each rendition", error)
    return _run_all(apart(params), run)


def _run_all(parts: list[Part], run: Callable[[Part, float, float], Said]) -> Said:
    share = 1 / len(parts)
    said = [run(part, share, number * share) for number, part in enumerate(parts)]
    return max(said, key=lambda one: one.errors)
