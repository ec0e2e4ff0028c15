"""The task `transcode`: probe, run ffmpeg, check what it wrote, hand it over."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longshore.sdk import Context, PermanentError, Resources, TaskError, Timeouts, task
from longshore_cpu_workers.tasks.inputs import require_input
from longshore_cpu_workers.tasks.transcoding.damage import damage_of, damaged
from longshore_cpu_workers.tasks.transcoding.execution import Said, run_ffmpeg
from longshore_cpu_workers.tasks.transcoding.ffmpeg import (
    DEFAULT_THREADS,
    command,
    sizes,
    thread_count,
)
from longshore_cpu_workers.tasks.transcoding.params import (
    Rendition,
    RenditionResult,
    SourceFacts,
    TranscodeParams,
    TranscodeResult,
)
from longshore_cpu_workers.tasks.transcoding.parts import Part, run_parts
from longshore_cpu_workers.tasks.transcoding.probe import Source, probe, refuse_cut_off
from longshore_cpu_workers.tasks.transcoding.progress import Report
from longshore_cpu_workers.tasks.transcoding.resumable import LongTranscode
from longshore_cpu_workers.tasks.transcoding.segments import segmented
from longshore_cpu_workers.tasks.transcoding.stills import complete_stills
from longshore_cpu_workers.tasks.transcoding.treatment import HDR, notes


@task(
    resources=Resources(cpu=DEFAULT_THREADS),
    max_attempts=3,
    timeouts=Timeouts(attempt=4 * 3600.0),
)
def transcode(ctx: Context, params: TranscodeParams) -> TranscodeResult:
    """Turns the input `video` into renditions of other sizes and codecs, and thumbnails.

    The first video stream is taken, rotated as a player would show it, and the sound that is marked
    as default; metadata, chapters and subtitles are left behind. Colours are 4:2:0: 8 bit SDR, or
    10 bit HDR if that is asked for. Interlaced sources are deinterlaced. The result says what was
    chosen, and what of a damaged source is lost.

    A video of more than 20 s is encoded in segments of 10 s (longer ones above an hour), which
    outlive the attempt: the next one goes on at the first that is missing, with the same result
    as if nothing had happened. The picture of MP4, MOV, Matroska and WebM is then read from there
    on; that of other formats is decoded from the start. The sound is encoded anew, in one piece.

    Raises:
        PermanentError: INPUT_MISSING, NOT_A_VIDEO, NO_SUCH_SOUND, VIDEO_TOO_LARGE, UPSCALE,
            SOURCE_DAMAGED.
        TaskError: DISK_FULL, OUT_OF_MEMORY, FFMPEG_KILLED, FFMPEG_CRASHED, FFMPEG_FAILED.
        JobCancelled: the job was cancelled; ffmpeg is gone, and its files but finished segments.
    """
    ctx.progress(0.0, "reading the video", phase="probe")
    source = probe(
        require_input(ctx, "video"), language=params.audio_language, sound=params.audio_stream
    )
    params, skipped = _without_upscaling(params, source)
    with _partial_folder(ctx) as folder:
        started = time.monotonic()
        resumed_at, said = _transcode(ctx, source, params, folder)
        seconds = time.monotonic() - started
        ctx.progress(0.99, "checking the outputs", phase="verify")
        outputs = [_read(rendition, folder) for rendition in params.renditions]
        damage = damage_of(source, outputs, said)
        if damage is not None and params.on_damage == "fail":
            raise damaged(damage)
        result = TranscodeResult(
            duration=round(source.duration, 3),
            source=_facts(source),
            renditions=[
                _measure(rendition, output)
                for rendition, output in zip(params.renditions, outputs, strict=True)
            ],
            thumbnails=complete_stills(ctx, _program(), outputs, params, folder),
            seconds=round(seconds, 3),
            resumed_at=round(resumed_at, 3),
            skipped=skipped,
            damaged=damage is not None,
            damage=damage,
            notes=notes(source, params),
        )
        _hand_over(ctx, folder, result)
    ctx.progress(1.0, "done", phase="done")
    return result


def _transcode(
    ctx: Context, source: Source, params: TranscodeParams, folder: Path
) -> tuple[float, Said]:
    """Writes the outputs. Returns the seconds of the source that earlier attempts had done, and
    what ffmpeg said of the source."""
    program = _program()
    threads = thread_count(params.threads, len(os.sched_getaffinity(0)))
    if segmented(source):
        attempt = LongTranscode(ctx, program, source, params, threads)
        said = attempt.run(folder, _reporter(ctx, source, attempt.resumed_at))
        return attempt.resumed_at, said
    report = _reporter(ctx, source)

    def run(part: Part, share: float, before: float) -> Said:
        argv = command(program, source, params, folder, part, threads=threads)
        said = run_ffmpeg(argv, ctx, lambda latest: report(latest, share, before))
        refuse_cut_off(said.tail)
        return said

    return 0.0, run_parts(ctx, params, sizes(source, params), run)


def _without_upscaling(
    params: TranscodeParams, source: Source
) -> tuple[TranscodeParams, list[str]]:
    """What is made, and the names of what is left out: scaling up costs time and space and adds
    nothing. Raises PermanentError where nothing may be left out, or all would be."""
    fitting = [r for r in params.renditions if r.height <= source.height]
    if len(fitting) == len(params.renditions):
        return params, []
    if params.on_upscale == "fail" or not fitting:
        raise _upscale(params, source)
    skipped = [r.name for r in params.renditions if r.height > source.height]
    return params.model_copy(update={"renditions": fitting}), skipped


def _upscale(params: TranscodeParams, source: Source) -> PermanentError:
    violations = [
        (f"renditions[{index}].height", f"{rendition.height} is above {source.height}")
        for index, rendition in enumerate(params.renditions)
        if rendition.height > source.height
    ]
    fields = ", ".join(f"{field} ({what})" for field, what in violations)
    return PermanentError(
        f"the source is {source.width}x{source.height} and nothing is scaled up: {fields}; "
        f"ask for at most {source.height // 2 * 2}, or set on_upscale to skip",
        reason="UPSCALE",
        code="INVALID_ARGUMENT",
        metadata={"source_height": str(source.height)},
        violations=violations,
    )


@contextmanager
def _partial_folder(ctx: Context) -> Iterator[Path]:
    """A folder beside the artifacts, so that handing over is a rename, gone in every case."""
    ctx.artifacts.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=ctx.artifacts.folder) as folder:
        yield Path(folder)


def _program() -> str:
    import imageio_ffmpeg  # noqa: PLC0415  wanted by this task alone

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _reporter(
    ctx: Context, source: Source, begin: float = 0.0
) -> Callable[[Report, float, float], None]:
    """Turns ffmpeg's reports into those of the job; the last hundredth is the checking.

    With a report come the share of the work that it is about, and the share that was done before.

    Where it begins later, the frames tell where it is: its times are of the sound as well.
    """
    frames = round(source.video_duration * source.frame_rate)
    before = round(begin * source.frame_rate)

    def report(latest: Report, share: float, already: float) -> None:
        time_of_frame = begin + latest.frame / source.frame_rate if source.frame_rate else begin
        done = min(time_of_frame if begin else latest.out_time, source.duration)
        ctx.progress(
            0.99 * (already + share * done / source.duration) if source.duration else None,
            f"{done:.1f} of {source.duration:.1f} s",
            completed=before + latest.frame,
            total=max(frames, before + latest.frame),
            unit="frames",
            phase="transcode",
            metrics={"fps": latest.fps, "speed": latest.speed},
        )

    return report


def _facts(source: Source) -> SourceFacts:
    return SourceFacts(
        format=source.demuxer,
        size=source.size,
        width=source.width,
        height=source.height,
        rotation=source.rotation,
        frame_rate=round(source.frame_rate, 3),
        video_codec=source.video_codec,
        audio_codec=source.audio_codec,
        audio_stream=source.audio_stream,
        interlaced=source.interlaced,
        hdr=HDR.get(source.transfer),
    )


def _read(rendition: Rendition, folder: Path) -> Source:
    """Reads the finished file as a stranger would: what is reported is what is there."""
    try:
        return probe(folder / rendition.artifact)
    except (PermanentError, OSError) as error:
        raise TaskError(
            f"ffmpeg ended well, but {rendition.artifact} cannot be read: {error}",
            reason="FFMPEG_FAILED",
        ) from error


def _measure(rendition: Rendition, output: Source) -> RenditionResult:
    return RenditionResult(
        name=rendition.name,
        artifact=rendition.artifact,
        width=output.width,
        height=output.height,
        codec=output.video_codec,
        audio_codec=output.audio_codec,
        duration=round(output.duration, 3),
        size=output.size,
    )


def _hand_over(ctx: Context, folder: Path, result: TranscodeResult) -> None:
    """Renames complete files to where artifacts are looked for."""
    for name in [rendition.artifact for rendition in result.renditions] + result.thumbnails:
        (folder / name).replace(ctx.artifacts.write(name))
