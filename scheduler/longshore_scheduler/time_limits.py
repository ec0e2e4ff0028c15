"""How long an attempt may run, and where its job goes when that was not long enough."""

from __future__ import annotations

from longshore_store.settings import QueueSettings


def attempt_limit(own: float | None, queue: QueueSettings | None) -> float | None:
    """Seconds; None is no limit.

    A job's own limit holds wherever the job is; a queue's for jobs that set none, and for all of
    them where long ones overflow. queue: None where nobody knows it any more.
    """
    if queue is None or queue.attempt_timeout is None:
        return own
    if own is None:
        return queue.attempt_timeout
    return min(own, queue.attempt_timeout) if queue.overflow_to else own


def overflow_of(own: float | None, queue: QueueSettings | None) -> str:
    """The queue that takes over a job which reached its limit here; empty where there is none, or
    where the limit was the job's own."""
    if queue is None or queue.attempt_timeout is None:
        return ""
    return queue.overflow_to if own is None or queue.attempt_timeout < own else ""
