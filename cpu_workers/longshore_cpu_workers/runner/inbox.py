"""Jobs that the worker handed over, until the runner begins them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from longshore_cpu_workers.runner.channel import AttemptChannel, Flusher
from longshore_cpu_workers.runner.link import Link, encode


class Job(NamedTuple):
    """One attempt; the fields are those of wire.Assignment.

    memory: bytes that the kernel lets it have; 0 for any.
    """

    serial: int
    job_id: str
    fence: int
    number: int
    task: str
    tenant: str
    payload: str
    inputs: list[list[object]]
    checkpoint: str | None
    attempt_timeout: float | None
    devices: list[str]
    memory: int


class Inbox:
    """Hands out jobs in order. Taking one and withdrawing one exclude each other."""

    def __init__(self, link: Link) -> None:
        self.on_more: Callable[[], object] | None = None
        self._link = link
        self._flusher = Flusher()
        self._jobs: deque[Job] = deque()
        self._channels: dict[int, AttemptChannel] = {}
        self._drains_at: float | None = None
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)

    def take(self, *, wait: bool) -> tuple[Job, AttemptChannel] | None:
        """The next job with its channel; from now on it can be cancelled but not withdrawn."""
        with self._lock:
            while not self._jobs:
                if not wait:
                    return None
                self._more.wait()
            job = self._jobs.popleft()
            channel = AttemptChannel(job.serial, self._link, self._flusher)
            channel.drains_at = self._drains_at
            self._channels[job.serial] = channel
            return job, channel

    def forget(self, serial: int) -> None:
        """An attempt has ended."""
        self._channels.pop(serial, None)

    def after_fork(self) -> None:
        """In a copy of this process: no thread holds a lock, and none sends what has to wait."""
        self._flusher.after_fork()
        for channel in list(self._channels.values()):
            channel.after_fork()

    def serve(self) -> None:
        """Reads the worker's messages until it is gone; runs on a thread of its own."""
        for kind, *rest in self._link.messages():
            match kind:
                case "run":
                    self._add(rest[0])
                case "withdraw":
                    self._withdraw(set(rest[0]))
                case "cancel":
                    if channel := self._channels.get(rest[0]):
                        channel.cancel()
                case "drain":
                    self._drain(rest[0])
                case "saved":
                    if channel := self._channels.get(rest[0]):
                        channel.saved(rest[1])

    def _add(self, jobs: list[list[object]]) -> None:
        with self._lock:
            self._jobs.extend(Job(*job) for job in jobs)  # type: ignore[arg-type]
            self._more.notify()
        if self.on_more is not None:
            self.on_more()

    def _drain(self, drains_at: float) -> None:
        with self._lock:  # one that begins at this moment must hear it too
            self._drains_at = drains_at
            for channel in list(self._channels.values()):  # `forget` takes no lock
                channel.drains_at = drains_at

    def _withdraw(self, serials: set[int]) -> None:
        with self._lock:
            taken = [job.serial for job in self._jobs if job.serial in serials]
            self._jobs = deque(job for job in self._jobs if job.serial not in serials)
        self._link.write(encode(["withdrawn", taken]))
