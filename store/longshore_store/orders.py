"""What people order of workers, and what comes of it. Orders outlive the leader of the moment."""

from __future__ import annotations

from typing import NamedTuple

DRAINING = 4
"""The value of longshore.v1.WorkerState; the one order that is never taken back."""


class WorkerOrder(NamedTuple):
    """What people ordered of a worker. `state` is the WorkerState that it is to have.

    drain_until_us: until when what it runs may finish; None once it is idle, and for a cordon.
    finished, released: attempts that ended by themselves since, and that were taken back.
    """

    worker_id: str
    state: int
    drain_until_us: int | None
    finished: int
    released: int


class DrainUpdate(NamedTuple):
    """What came of a drain since the update before. `idle`: nothing is left on the worker."""

    worker_id: str
    finished: int
    released: int
    idle: bool


class CancelOrder(NamedTuple):
    """A CANCELLING job whose worker is to be told."""

    job_id: str
    fence: int
    worker_id: str
    force: bool
