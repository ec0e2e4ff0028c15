"""A long transcode, which a later attempt can go on with: encode in segments, then assemble."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longshore.sdk import Context, JobCancelled, TaskError
from longshore_cpu_workers.tasks.transcoding import ffmpeg
from longshore_cpu_workers.tasks.transcoding.execution import Said, run_ffmpeg
from longshore_cpu_workers.tasks.transcoding.ledger import Ledger
from longshore_cpu_workers.tasks.transcoding.params import Rendition, TranscodeParams
from longshore_cpu_workers.tasks.transcoding.parts import Part, run_parts
from longshore_cpu_workers.tasks.transcoding.probe import Source, refuse_cut_off
from longshore_cpu_workers.tasks.transcoding.progress import Report
from longshore_cpu_workers.tasks.transcoding.segments import (
    assemble_command,
    encode_command,
    playlist,
)

# At the most this and a segment are lost with an attempt.
CHECKPOINT_SECONDS = 3.0


class LongTranscode:
    """One attempt at a job whose source is long.

    Attributes:
        resumed_at: seconds of the source that earlier attempts had encoded.
    """

    def __init__(
        self, ctx: Context, program: str, source: Source, params: TranscodeParams, threads: int
    ) -> None:
        self._ctx = ctx
        self._program = program
        self._source = source
        self._params = params
        self._ledger = Ledger.restore(ctx, program, source, params, threads)
        self.resumed_at = self._resumed_at()
        if self.resumed_at:
            ctx.log.info("%.1f of %.1f s are there already", self.resumed_at, source.duration)

    def _resumed_at(self) -> float:
        if self._ledger.saved.finished is not None:
            return self._source.video_duration
        last = min(after or 0.0 for after in self._ledger.todo.after)
        rate = self._source.frame_rate
        return last + 1 / rate if last and rate else last

    def run(self, folder: Path, report: Callable[[Report, float, float], None]) -> Said:
        """Writes renditions and thumbnails into a folder, from where the last attempt got to.

        Args:
            report: called with ffmpeg's reports, which count from `resumed_at`, and with the share
                of the work that they are about, and the share before it.

        Returns:
            What ffmpeg said of what this attempt read of the source.

        Raises:
            PermanentError: NOT_A_VIDEO, the source is cut off.
            TaskError, JobCancelled: as `run_ffmpeg`.
        """
        said = Said()
        if self._ledger.saved.finished is None:
            with self._ledger.partial() as partial:
                said = self._encode_all(partial, report)
        with self._distrust():
            for index, rendition in enumerate(self._params.renditions):
                self._assemble(index, rendition, folder)
        for name, path in self._ledger.stills().items():
            shutil.copyfile(path, folder / name)  # a copy: this attempt may be lost, too
        return said

    def _encode_all(self, partial: Path, report: Callable[[Report, float, float], None]) -> Said:
        def encode(part: Part, share: float, before: float) -> Said:
            return self._encode(partial, part, lambda latest: report(latest, share, before))

        sizes = ffmpeg.sizes(self._source, self._params)
        said = run_parts(self._ctx, self._params, sizes, encode)
        self._ledger.finish(partial)
        self._save()
        return said

    def _encode(self, partial: Path, part: Part, report: Callable[[Report], None]) -> Said:
        due = 0.0

        def on_report(latest: Report) -> None:
            nonlocal due
            report(latest)
            if time.monotonic() >= due:
                self._save_what_is_new(partial)
                due = time.monotonic() + CHECKPOINT_SECONDS

        ledger = self._ledger
        argv = encode_command(
            *(self._program, self._source, self._params, partial, ledger.todo, part),
            threads=ledger.saved.threads,
        )
        try:
            said = run_ffmpeg(argv, self._ctx, on_report)
            refuse_cut_off(said.tail)
        except (JobCancelled, TaskError):
            # Where it was a drain, the next attempt begins here; after a crash, the next process.
            self._save_what_is_new(partial)
            raise
        return said

    def _save_what_is_new(self, partial: Path) -> None:
        if self._ledger.take(partial):
            self._save()

    def _save(self) -> None:
        """A store that is away for a while costs safety, not the work.

        So does a list that grew too long: a source may be far longer than its header says.
        """
        try:
            self._ctx.checkpoint(self._ledger.saved.model_dump(mode="json"), timeout=10.0)
        except (TimeoutError, ValueError) as error:
            self._ctx.log.warning("%s; the work goes on", error)

    def _assemble(self, index: int, rendition: Rendition, folder: Path) -> None:
        ctx, ledger = self._ctx, self._ledger
        ctx.progress(0.99, f"assembling {rendition.name}", phase="assemble")
        starts = [segment.start for segment in ledger.saved.tracks[index]]
        script = ledger.folder / f"{ctx.fence}-{index}.ffconcat"
        script.write_text(playlist(ledger.paths(index), starts))
        sound = ledger.sound(rendition)
        argv = assemble_command(self._program, rendition, script, starts[0], sound, folder)
        _refuse_gaps(rendition, run_ffmpeg(argv, ctx, lambda _: None).tail)

    @contextmanager
    def _distrust(self) -> Iterator[None]:
        """What cannot be put together now could not be at the next attempt: that starts over."""
        try:
            yield
        except TaskError as error:
            if error.reason == "FFMPEG_FAILED":
                self._ctx.checkpoint(None)
            raise


def _refuse_gaps(rendition: Rendition, tail: tuple[str, ...]) -> None:
    """ffmpeg leaves out a segment that it cannot read, says so, and calls that a success.

    Its warnings are of no concern: an encoder that begins anew dates its first packets a little
    before the last of the one before, which ffmpeg puts right.
    """
    if errors := [line for line in tail if "[error]" in line or "[fatal]" in line]:
        raise TaskError(
            f"{rendition.artifact} could not be put together: {errors[-1]}",
            reason="FFMPEG_FAILED",
        )
