"""The closing of the books: every accepted job, what became of it, how often it was executed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from longshore import AsyncClient, LongshoreError
from longshore.v1 import job_pb2
from tests.soak.load import Told

PAGE = 500
_TERMINAL = {
    job_pb2.JOB_STATE_SUCCEEDED,
    job_pb2.JOB_STATE_FAILED,
    job_pb2.JOB_STATE_CANCELLED,
    job_pb2.JOB_STATE_EXPIRED,
    job_pb2.JOB_STATE_DEAD_LETTERED,
}


class Accounts(NamedTuple):
    """Counts over all accepted jobs.

    lost: accepted and unknown, or not terminal. changed: terminal states that were seen to be
    others later. completed: executions that ended, of jobs that succeeded; `repeated` is how
    many jobs ran to their end more than once, `restarted` how many began more than once.
    """

    accepted: int
    states: Counter[str]
    lost: int
    changed: int
    restarted: int
    repeated: int
    unexecuted: int
    unexpected: list[str]


async def close(client: AsyncClient, told: Told, ledger: Path) -> Accounts:
    """Reads every job of the soak and holds it against what was told and what was executed."""
    states: dict[str, int] = {}
    async for job in client.list(filter='task = "work"'):
        states[job.job_id] = job.state
    lost = [i for i in told.accepted if states.get(i) not in _TERMINAL]
    changed = [i for i, state in told.ended.items() if states.get(i) != state]
    begins, ends = read_ledger(ledger)
    succeeded = [i for i in told.accepted if states.get(i) == job_pb2.JOB_STATE_SUCCEEDED]
    return Accounts(
        len(told.accepted),
        Counter(_name(states.get(i)) for i in told.accepted),
        len(lost),
        len(changed),
        sum(begins[i] > 1 for i in told.accepted),
        sum(ends[i] > 1 for i in told.accepted),
        sum(ends[i] < 1 for i in succeeded),
        _unexpected(told, states),
    )


def _unexpected(told: Told, states: dict[str, int]) -> list[str]:
    """Jobs that ended otherwise than they were made to."""
    found = []
    for job_id in told.accepted:
        state = states.get(job_id)
        expected = {job_pb2.JOB_STATE_SUCCEEDED}
        if job_id in told.permanent:
            expected = {job_pb2.JOB_STATE_FAILED}
        if job_id in told.cancelled:
            expected.add(job_pb2.JOB_STATE_CANCELLED)
        if state not in expected:
            found.append(f"{job_id} {_name(state)}")
    extra = len(states) - len(told.accepted)
    if extra > told.failed_submits:  # an unanswered Submit may have been accepted
        found.append(f"{extra} jobs that nobody submitted")
    return found


def read_ledger(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """How often each job began and ended, by its own notes."""
    begins: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            match line.split():
                case [job_id, _, "begin"]:
                    begins[job_id] += 1
                case [job_id, _, "end"]:
                    ends[job_id] += 1
                case _:  # a kill cut it short
                    pass
    return begins, ends


async def unfinished(client: AsyncClient) -> int | None:
    """Jobs that wait or run; None while nobody says."""
    try:
        return sum(queue.waiting + queue.active for queue in await client.queues())
    except LongshoreError:
        return None


def _name(state: int | None) -> str:
    if state is None:
        return "UNKNOWN"
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_")
