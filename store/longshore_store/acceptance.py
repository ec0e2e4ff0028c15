"""What a new job becomes at the moment it is accepted."""

from __future__ import annotations

from longshore_store.model import NewJob
from longshore_store.needs import parse_needs
from longshore_store.states import JobState


def first_state(job: NewJob, now_us: int) -> JobState:
    """Where a new job begins."""
    due = job.due_us is not None and job.due_us > now_us
    return JobState.SCHEDULED if due else JobState.QUEUED


def deadlines(job: NewJob, now_us: int) -> tuple[int | None, int | None]:
    """When waiting ends, and when everything ends."""
    if job.total_timeout_us is None and job.queue_timeout_us is None:
        return None, None
    total = None if job.total_timeout_us is None else now_us + job.total_timeout_us
    queue = None if job.queue_timeout_us is None else now_us + job.queue_timeout_us
    return min((d for d in (queue, total) if d is not None), default=None), total


def needs_gpu(job: NewJob) -> int:
    """1 where only a worker with devices will do."""
    return int(parse_needs(job.needs_json).gpu_millis > 0)
