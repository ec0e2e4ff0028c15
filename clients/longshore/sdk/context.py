"""Context: what task code sees of its job, and how it reports."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from longshore.sdk.artifacts import Artifacts, Kept
from longshore.sdk.failures import JobCancelled

Json = Any
_LOG = logging.getLogger("longshore.task")


@dataclass(frozen=True, slots=True)
class Input:
    """A large input of the job.

    Attributes:
        name: what the job calls it.
        path: the local file.
        size: bytes, as declared; 0 where unknown.
        sha256: hex, as declared; empty where unknown.
    """

    name: str
    path: Path
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. Newest wins; fraction never falls within an attempt."""

    fraction: float | None = None
    message: str = ""
    completed: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Channel(Protocol):
    """Where a context sends its reports; the runner implements it."""

    def progress(self, progress: Progress) -> None:
        """Takes a report; may drop it for a newer one. Never blocks."""

    def log(self, line: str) -> None:
        """Takes one line of output; may drop it over a rate. Never blocks."""

    def checkpoint(self, value: Json, timeout: float) -> None:
        """Stores a checkpoint. Returns once it is durable, or raises TimeoutError.

        Called in an event loop, it only sends it.
        """

    async def acheckpoint(self, value: Json, timeout: float) -> None:
        """The same for an event loop, which goes on meanwhile."""

    def cancelled(self) -> bool:
        """True once the attempt is to end."""

    def grace(self) -> float | None:
        """Seconds until a worker that goes away takes the attempt back; None while it stays."""


class Context:
    """What a task sees of the job it runs.

    Attributes:
        job_id: the job.
        attempt: the number of this attempt, from 1.
        fence: the number of its lease; of two attempts of a job the newer has the larger one.
        tenant: whose job it is.
        restored: the newest checkpoint of an earlier attempt, or None.
        inputs: large inputs by name, as local files.
        artifacts: where large outputs go.
        scratch: an empty folder, made at first use and deleted when the attempt ends.
        kept: a folder that all attempts of the job share, until one succeeds.
        devices: the devices this attempt may use, by name.
        log: a logger whose records become log events of the job.
    """

    def __init__(
        self,
        *,
        job_id: str,
        attempt: int,
        tenant: str,
        channel: Channel,
        artifacts: Artifacts,
        scratch: Path | str,
        inputs: Mapping[str, Input] | None = None,
        restored: Json = None,
        devices: tuple[str, ...] = (),
        deadline: float | None = None,
        fence: int = 0,
        kept: Kept | None = None,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.fence = fence
        self.tenant = tenant
        self.artifacts = artifacts
        self._scratch: Path | str = scratch  # a Path is made once it is asked for: it is slow
        self._scratch_made = False
        self._kept = kept or Kept(f"{scratch}/kept", fence)
        self.inputs = dict(inputs or {})
        self.restored = restored
        self.devices = devices
        self.log = _LOG
        self._channel = channel
        self._deadline = deadline
        self._highest = 0.0

    @property
    def scratch(self) -> Path:
        """An empty folder of this attempt alone, made at first use."""
        path = Path(self._scratch)
        if not self._scratch_made:
            path.mkdir(parents=True, exist_ok=True)
            self._scratch_made = True
        return path

    @property
    def scratch_used(self) -> bool:
        """True once `scratch` was asked for: there is a folder to delete."""
        return self._scratch_made

    @property
    def kept(self) -> Path:
        """A folder that all attempts of this job share; deleted when one succeeds.

        An older attempt that has lost its lease may still write here: put `fence` into the
        names, rename a file to its name once it is complete, and rely only on those that a
        checkpoint lists. It may be gone, where workers share no storage: then start over.
        """
        return self._kept.open()

    @property
    def cancelled(self) -> bool:
        """True once the attempt is to end; `progress` and `check_cancelled` raise then."""
        return self._channel.cancelled()

    @property
    def draining(self) -> bool:
        """True once the worker is to go away: call `checkpoint` now, and go on working.

        What ends within `grace` counts as ever. What does not is cancelled then, and runs again
        on another worker from its newest checkpoint; that costs it no attempt. A task that saves
        checkpoints at its own pace anyway need not look at this.
        """
        return self._channel.grace() is not None

    @property
    def grace(self) -> float | None:
        """Seconds left of a drain until the attempt is cancelled; None while there is none."""
        return self._channel.grace()

    @property
    def remaining(self) -> float | None:
        """Seconds until the attempt times out, or None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check_cancelled(self) -> None:
        """Raises JobCancelled once the attempt is to end."""
        if self._channel.cancelled():
            raise JobCancelled

    def progress(
        self,
        fraction: float | None = None,
        message: str = "",
        *,
        completed: int = 0,
        total: int = 0,
        unit: str = "",
        phase: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Reports how far the work is; at most ten a second leave the machine, newest wins.

        Args:
            fraction: 0 to 1; computed from completed and total where left out. A value
                below an earlier one is raised to it: progress never falls. One that is not
                finite counts as left out.
            message: one line for people.
            completed, total, unit: work done and to do, in unit.
            phase: what it does now, such as "decode".
            metrics: numbers worth a chart.

        Raises:
            JobCancelled: the attempt is to end.
        """
        if fraction is None and total > 0:
            fraction = completed / total
        if fraction is not None and not math.isfinite(fraction):
            fraction = None
        if fraction is not None:
            self._highest = fraction = max(self._highest, min(1.0, fraction))
        report = Progress(fraction, message[:1024], completed, total, unit, phase, metrics or {})
        self._channel.progress(report)
        self.check_cancelled()

    def checkpoint(self, value: Json, *, timeout: float = 30.0) -> None:
        """Saves what the next attempt starts from, as `ctx.restored`.

        Code that cleans up after JobCancelled may call it once more, within the `cancel_grace`
        of the job: the value is kept like any other where the attempt still holds its lease (a
        drain, not a cancelled job), and JobCancelled is raised again.

        In an async task it sends the value and does not wait, because that would stop the other
        attempts of its process. Use `await ctx.acheckpoint(...)` to wait.

        Args:
            value: anything JSON can carry, at most 256 KiB.
            timeout: seconds to wait for the store.

        Raises:
            TimeoutError: the store did not confirm in time; the value may or may not be kept.
            ValueError: the value is too large or not JSON.
            JobCancelled: the attempt is to end; the value is on its way to the store all the same.
        """
        self._channel.checkpoint(value, timeout)
        self.check_cancelled()

    async def acheckpoint(self, value: Json, *, timeout: float = 30.0) -> None:
        """The same for an async task: returns once the store has it; other attempts go on.

        Args:
            value: anything JSON can carry, at most 256 KiB.
            timeout: seconds to wait for the store.

        Raises:
            TimeoutError, ValueError, JobCancelled: as `checkpoint`.
        """
        await self._channel.acheckpoint(value, timeout)
        self.check_cancelled()
