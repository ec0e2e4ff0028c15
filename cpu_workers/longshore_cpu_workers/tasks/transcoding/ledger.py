"""What of a long transcode is there already: files in `ctx.kept`, listed by a checkpoint.

A file counts once a checkpoint lists it. Its name has the fence of its attempt, so that an older
attempt that still runs can overwrite nothing; it gets that name when it is complete and on disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from longshore.sdk import Context, TaskError
from longshore_cpu_workers.tasks.transcoding.params import Rendition, TranscodeParams
from longshore_cpu_workers.tasks.transcoding.probe import Source
from longshore_cpu_workers.tasks.transcoding.segments import (
    Todo,
    segment_name,
    sound_of,
    sounds,
    still_name,
)


class Segment(NamedTuple):
    """A file of a track: whose it is, the time of its first frame in microseconds, its bytes."""

    fence: int
    start: int
    size: int


class Saved(BaseModel):
    """The checkpoint.

    Attributes:
        work: a digest of what is to be made of what; of other work nothing is of use.
        threads: those of the first attempt: other numbers may change the headers of a stream.
        tracks: of each rendition, its segments in order.
        stills: of each thumbnail, the attempt that made it.
        finished: the attempt that reached the end, and made the sounds.
    """

    model_config = ConfigDict(extra="forbid")

    work: str
    threads: int
    tracks: list[list[Segment]]
    stills: list[int]
    finished: int | None = None


class Ledger:
    """What is there, and how more is added.

    Attributes:
        folder: where the files are.
        saved: what the next checkpoint says.
    """

    def __init__(self, ctx: Context, source: Source, params: TranscodeParams, saved: Saved) -> None:
        self.folder = ctx.kept
        self._fence = ctx.fence
        self._source = source
        self._params = params
        self.saved = saved

    @classmethod
    def restore(
        cls, ctx: Context, program: str, source: Source, params: TranscodeParams, threads: int
    ) -> Ledger:
        """The ledger of this job, as far as it can be used; what is of no use is deleted."""
        work = _digest(program, source, params)
        tracks: list[list[Segment]] = [[] for _ in params.renditions]
        fresh = Saved(work=work, threads=threads, tracks=tracks, stills=[])
        ledger = cls(ctx, source, params, _usable(ctx, fresh) or fresh)
        ledger._drop_what_is_missing(ctx)
        ledger._sweep()
        return ledger

    @property
    def todo(self) -> Todo:
        """What is left to do."""
        tracks = self.saved.tracks
        return Todo(
            segments=tuple(map(len, tracks)),
            after=tuple(self._last_time(index) for index in range(len(tracks))),
            start=min((track[0].start / 1e6 for track in tracks if track), default=None),
            stills=len(self.saved.stills),
        )

    def paths(self, rendition: int) -> list[Path]:
        """The files of a rendition's track."""
        return [
            self.folder / f"{segment.fence}-{segment_name(rendition, number)}"
            for number, segment in enumerate(self.saved.tracks[rendition])
        ]

    def sound(self, rendition: Rendition) -> Path | None:
        """The file with its sound, once finished."""
        sound = sound_of(rendition, self._source)
        return self.folder / f"{self.saved.finished}-{sound.name()}" if sound else None

    def stills(self) -> dict[str, Path]:
        """The thumbnails by the names of their artifacts."""
        names = [still_name(self._params, n + 1) for n in range(len(self.saved.stills))]
        pairs = zip(names, self.saved.stills, strict=True)
        return {name: self.folder / f"{fence}-{name}" for name, fence in pairs}

    # What an attempt adds

    @contextmanager
    def partial(self) -> Iterator[Path]:
        """A folder for what is not complete, on the same storage; gone afterwards."""
        prefix = f"{self._fence}-partial-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.folder) as folder:
            yield Path(folder)

    def take(self, partial: Path, *, ended: bool = False) -> bool:
        """Takes over what ffmpeg has completed; True where there was something.

        Before it ended, a segment is complete once the next has begun. So when work is resumed
        there is at least one frame to encode.
        """
        taken = 0
        for index, track in enumerate(self.saved.tracks):
            while (partial / segment_name(index, len(track) + (not ended))).exists():
                track.append(self._take_segment(partial / segment_name(index, len(track))))
                taken += 1
        while (still := partial / still_name(self._params, len(self.saved.stills) + 1)).exists():
            self._keep(still)
            self.saved.stills.append(self._fence)
            taken += 1
        if taken:
            _sync(self.folder)
        return taken > 0

    def finish(self, partial: Path) -> None:
        """Takes over the rest, after ffmpeg came to its end."""
        self.take(partial, ended=True)
        if not all(self.saved.tracks):
            raise TaskError("ffmpeg ended well and wrote no picture", reason="FFMPEG_FAILED")
        for sound in sounds(self._params, self._source):
            self._keep(partial / sound.name())
        _sync(self.folder)
        self.saved.finished = self._fence

    def _take_segment(self, path: Path) -> Segment:
        found = span(path)
        if found is None:
            raise TaskError(f"ffmpeg wrote {path.name}, but not legibly", reason="FFMPEG_FAILED")
        size = path.stat().st_size
        self._keep(path)
        return Segment(self._fence, round(found[0] * 1_000_000), size)

    def _keep(self, path: Path) -> None:
        _sync(path)
        path.rename(self.folder / f"{self._fence}-{path.name}")

    def _last_time(self, rendition: int) -> float | None:
        paths = self.paths(rendition)
        found = span(paths[-1]) if paths else None
        return None if found is None else float(found[1])

    # What an earlier one left

    def _drop_what_is_missing(self, ctx: Context) -> None:
        """Keeps of each track, and of the thumbnails, what is there without a gap."""
        saved = self.saved
        files = [*self._sound_files(), *self.stills().values()]
        whole = saved.finished is None or all(path.exists() for path in files)
        missing = [not path.exists() for path in self.stills().values()]
        del saved.stills[[*missing, True].index(True) :]
        lost = sum(map(self._drop_segments, range(len(saved.tracks))))
        if lost:
            ctx.log.warning("%d segments are gone; they are made again", lost)
        if saved.finished is not None and (lost or not whole):
            saved.finished = None
            for track in saved.tracks:  # it may end with the last frame; one is to be left
                del track[-1:]

    def _drop_segments(self, rendition: int) -> int:
        """Drops those from the first that is missing on, and a last one that cannot be read."""
        track = self.saved.tracks[rendition]
        before = len(track)
        pairs = zip(self.paths(rendition), track, strict=True)
        there = [_size(path) == segment.size for path, segment in pairs]
        del track[[*there, False].index(False) :]
        while track and self._last_time(rendition) is None:
            del track[-1]
        return before - len(track)

    def _sound_files(self) -> Iterable[Path]:
        return filter(None, map(self.sound, self._params.renditions))

    def _sweep(self) -> None:
        """Deletes what older attempts left and no checkpoint lists."""
        listed = {path for index in range(len(self.saved.tracks)) for path in self.paths(index)}
        listed |= {*self.stills().values(), *self._sound_files()}
        for path in self.folder.iterdir():
            fence = path.name.partition("-")[0]
            if path in listed or not fence.isdigit() or int(fence) >= self._fence:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _usable(ctx: Context, fresh: Saved) -> Saved | None:
    if ctx.restored is None:
        return None
    try:
        saved = Saved.model_validate(ctx.restored)
    except ValidationError as error:
        ctx.log.warning("the checkpoint cannot be read, so this starts over: %s", error)
        return None
    if saved.work != fresh.work or len(saved.tracks) != len(fresh.tracks):
        ctx.log.warning("the checkpoint is of other work or another ffmpeg; this starts over")
        return None
    return saved


def _digest(program: str, source: Source, params: TranscodeParams) -> str:
    """Names the work: what is asked for, the source's facts, and ffmpeg with its version."""
    facts = (Path(program).name, params.model_dump_json(), source.facts())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def span(path: Path) -> tuple[Fraction, Fraction] | None:
    """The times of the first and the last frame of a segment, in seconds; None if unreadable."""
    import av  # noqa: PLC0415  0.2 s, wanted by this task alone

    try:
        with av.open(f"file:{path}", format="mov") as container:
            stream = container.streams.video[0]
            times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            base = stream.time_base
    except (av.FFmpegError, IndexError):
        return None
    return (min(times) * base, max(times) * base) if times and base else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
