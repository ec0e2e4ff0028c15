"""What keeps a deployment healthy for years: the leader deletes what is too old, bit by bit.

Beside the cycle and the sweep, and slower than they are: each step is one small batch, and then
it rests for many times as long as the step took. A store that is busy makes steps long, and so
the rests; what is left over then goes when it is quiet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from longshore_scheduler.term import Term
from longshore_store.model import Fenced
from longshore_store.retention_records import Ages, ages_of
from longshore_store.settings import RetentionSettings
from longshore_store.telling import without_values

_log = logging.getLogger(__name__)

SHARE = 0.05
"""Of the time, at most, that steps take."""

SLOW = 0.05
"""Seconds: a step that took longer is followed by smaller ones, a quicker one by larger ones."""

REST = 300.0
"""Seconds between two passes."""

HOURLY = 3600.0
"""Seconds between two looks at what grows slowly: counters of processes, redrives that are over,
folders without a job."""

_LEAST_PAUSE = 0.05
_SMALLEST_PART = 8  # of a batch, that a step shrinks to
_MERGED = 2000  # counters in one transaction
_MOST_MERGES = 100  # processes that count go on making new ones
_CHECKPOINTS = 1000
_REDRIVES = 1000
_FOLDERS = 200
_JOB_FOLDER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Pruned(NamedTuple):
    """How much was deleted: jobs; jobs whose log lines were; checkpoints; folders of artifacts
    that had no job any more. `merged` counters of earlier processes."""

    jobs: int = 0
    logs: int = 0
    checkpoints: int = 0
    folders: int = 0
    merged: int = 0
    redrives: int = 0

    def plus(self, other: Pruned) -> Pruned:
        """The sum."""
        return Pruned(*map(sum, zip(self, other, strict=True)))


class Retention:
    """Passes over jobs, checkpoints and artifacts, one after the other, with cursors in memory.

    Args:
        settings: ages, and the largest batch.
        artifacts: the folder with a folder for each job; None where this process has none.

    Attributes:
        pruned: all of this term.
    """

    def __init__(self, term: Term, settings: RetentionSettings, artifacts: Path | None) -> None:
        self._term = term
        self._ages = ages_of(settings)
        self._largest = settings.batch
        self._smallest = max(1, settings.batch // _SMALLEST_PART)
        self._limit = self._smallest
        self._folders = None if artifacts is None else _Folders(artifacts, self._ages)
        self._tidied = self._looked = float("-inf")
        self._after_job = self._after_checkpoint = ""
        self._open: set[str] = set()
        self.pruned = Pruned()

    async def run(self) -> None:
        """Until the term is over. What goes wrong is logged, and tried again in the next pass."""
        while not self._term.over.is_set() and not self._term.stopping:
            began = time.perf_counter()
            try:
                more = await self.run_once()
            except Fenced:
                return
            except Exception as error:  # noqa: BLE001 - jobs are worth more than the room of old ones
                told = without_values(error)
                _log.error("nothing is deleted for now, trying again in %.0f s: %s", REST, told)
                more = False
            took = time.perf_counter() - began
            self._adapt(took)
            pause = max(took / SHARE - took, _LEAST_PAUSE)
            await self._term.pause(pause if more else max(pause, REST))

    async def run_once(self) -> bool:
        """One step. False where it was the last one of a pass."""
        if not self._open:
            self._begin()
        step = await self._tidy()
        if "jobs" in self._open:
            step = step.plus(await self._prune_jobs())
        if "checkpoints" in self._open:
            step = step.plus(await self._prune_checkpoints())
        if self._folders is not None and "folders" in self._open:
            step = step.plus(await self._prune_folders(self._folders))
        self.pruned = self.pruned.plus(step)
        if not self._open and any(self.pruned):
            _log.info("deleted in term %d so far: %s", self._term.number, _told(self.pruned))
        return bool(self._open)

    def _begin(self) -> None:
        """A pass: the scans that are not through yet."""
        self._open = {"jobs", "checkpoints"}
        now = self._term.clock()
        if self._folders is not None and now - self._looked >= HOURLY:
            self._open.add("folders")
            self._looked = now

    def _adapt(self, took: float) -> None:
        if took > SLOW:
            self._limit = max(self._smallest, self._limit // 2)
        else:
            self._limit = min(self._largest, self._limit * 2)

    async def _tidy(self) -> Pruned:
        """Once an hour, what needs no scan."""
        now = self._term.clock()
        if now - self._tidied < HOURLY:
            return Pruned()
        tidied = Pruned(merged=await self._compact(), redrives=await self._prune_redrives())
        self._tidied = now
        return tidied

    async def _compact(self) -> int:
        """Merges the counters that processes which ended have left."""
        term, merged = self._term, 0
        for _ in range(_MOST_MERGES):
            count = await term.insist(lambda: term.store.compact_counts(term.number, _MERGED))
            merged += count
            if count < _MERGED:
                break
        return merged

    async def _prune_redrives(self) -> int:
        """Records of who redrove what; they outlive the jobs."""
        term, before_us = self._term, self._term.store.now_us() - self._ages.longest
        prune = term.store.prune_redrives
        return await term.insist(lambda: prune(term.number, before_us, _REDRIVES))

    async def _prune_jobs(self) -> Pruned:
        term, after, limit = self._term, self._after_job, self._limit
        found = await term.insist(lambda: term.store.prunable_jobs(self._ages, after, limit))
        await term.persist(term.store.prune_jobs, found.jobs)
        stale = await term.persist(term.store.prune_logs, found.logs)
        gone = await self._without_job([job.job_id for job in found.jobs])
        if self._folders is not None:
            await asyncio.to_thread(self._folders.remove, gone)
        self._after_job = self._advance("jobs", found.after_id)
        return Pruned(jobs=len(gone), logs=len(found.logs) - len(stale))

    async def _without_job(self, job_ids: Sequence[str]) -> list[str]:
        """Asked of the store, whatever became of a write: files go after their job."""
        if not job_ids:
            return []
        term = self._term
        known = {job.id for job in await term.insist(lambda: term.store.read_jobs(job_ids))}
        return [job_id for job_id in job_ids if job_id not in known]

    async def _prune_checkpoints(self) -> Pruned:
        term, after = self._term, self._after_checkpoint
        spent = await term.insist(lambda: term.store.spent_checkpoints(after, _CHECKPOINTS))
        stale = await term.persist(term.store.prune_checkpoints, spent.jobs)
        self._after_checkpoint = self._advance("checkpoints", spent.after_id)
        return Pruned(checkpoints=len(spent.jobs) - len(stale))

    async def _prune_folders(self, folders: _Folders) -> Pruned:
        """Folders that a crash between commit and deletion has left."""
        term = self._term
        found = await asyncio.to_thread(folders.next)
        self._advance("folders", "".join(found[-1:]))
        gone = await self._without_job(folders.old(found, term.store.now_us()))
        await asyncio.to_thread(folders.remove, gone)
        return Pruned(folders=len(gone))

    def _advance(self, scan: str, after: str) -> str:
        """The next cursor; without one the scan is through until the next pass."""
        if not after:
            self._open.discard(scan)
        return after


class _Folders:
    """The folders of artifacts, each named by its job. The methods block: call them in a thread.

    A job is committed before a folder is made for it, so a folder without a job has lost its own.
    Only old ones are deleted all the same: with a database restored from a backup the others may
    still be somebody's.
    """

    def __init__(self, path: Path, ages: Ages) -> None:
        self._path = path
        self._ages = ages
        self._names: Iterator[str] | None = None

    def next(self) -> list[str]:
        """Some more names; none at the end of a pass, and then it begins anew."""
        if self._names is None:
            self._names = self._all()
        found = list(islice(self._names, _FOLDERS))
        if not found:
            self._names = None
        return found

    def _all(self) -> Iterator[str]:
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    if _JOB_FOLDER.fullmatch(entry.name):
                        yield entry.name
        except FileNotFoundError:  # no task has written any yet
            return

    def old(self, job_ids: Sequence[str], now_us: int) -> list[str]:
        """Those of jobs that may have been deleted by age."""
        return [i for i in job_ids if _made_us(i) <= now_us - self._ages.shortest]

    def remove(self, job_ids: Sequence[str]) -> None:
        """Deletes the folders of jobs, where there are any."""
        for job_id in job_ids:
            try:
                shutil.rmtree(self._path / job_id)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("artifacts of deleted job %s stay for now: %s", job_id, error)


def _made_us(job_id: str) -> int:
    """When the id was made: UUIDv7 begins with the milliseconds since the epoch."""
    return int(job_id[:8] + job_id[9:13], 16) * 1000


def _told(pruned: Pruned) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in pruned._asdict().items())
