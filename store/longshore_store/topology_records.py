"""Queues, tasks, pools and workers as plain records, no database in sight."""

from __future__ import annotations

from typing import NamedTuple


class QueueRecord(NamedTuple):
    """A queue: what was declared of it, and its counters. `drained` only grows: leases ever.

    not_due: of those that wait, how many wait for a time; counted up to a bound.
    """

    name: str
    paused: bool
    pause_reason: str
    paused_us: int | None
    maximum_waiting: int
    attempt_timeout_us: int | None
    overflow_to: str
    waiting: int
    active: int
    drained: int
    not_due: int = 0


class QueueDeclaration(NamedTuple):
    """What settings say of a queue; maximum_waiting 0 is no bound."""

    name: str
    maximum_waiting: int
    attempt_timeout_us: int | None
    overflow_to: str


class LeaderRecord(NamedTuple):
    """The newest leader; until_us: when its term runs out unless it is renewed."""

    leader_id: str
    term: int
    until_us: int


class TaskRecord(NamedTuple):
    """A registered task; document_json is `Task.describe()`."""

    name: str
    document_json: str


class PoolRecord(NamedTuple):
    """A pool; shape_json is what one worker offers, in the form of `needs_json`.

    build: what its workers are brought to. lacks_json: the declared tasks, by name, that none of
    its workers has yet, as a JSON list. cordoned_workers: those that are up and take no work, by
    request.
    """

    name: str
    shape_json: str
    minimum_workers: int
    maximum_workers: int
    ready_workers: int
    starting_workers: int
    active_attempts: int
    simulated: bool
    build: str = ""
    lacks_json: str = "[]"
    cordoned_workers: int = 0


class WorkerRecord(NamedTuple):
    """A worker; state is a longshore.v1.WorkerState, devices_json a list of Device."""

    id: str
    pool: str
    state: int
    node: str
    pid: int
    shape_json: str
    devices_json: str
    active_attempts: int
    started_us: int
    heartbeat_us: int
    build: str = ""
    build_description: str = ""
