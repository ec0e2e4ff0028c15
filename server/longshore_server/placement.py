"""Where a waiting job stands: position, estimate and reasons, from one reading of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from longshore.v1 import job_pb2
from longshore_server.capacity import Offer, fitting, slots
from longshore_server.catalogue import Catalogue
from longshore_server.rates import Rate
from longshore_server.refusals import cut
from longshore_server.times import SECOND, span, timestamp
from longshore_store.model import JobRecord
from longshore_store.needs import LONGEST_REMEMBERED, Needs, lacking, parse_needs
from longshore_store.states import WAITING, JobState
from longshore_store.topology_records import QueueRecord

Reason = job_pb2.WaitingReason
LONGEST_ESTIMATE = 30 * 86400.0
LEAST_SPREAD = 0.5
MOST_CACHED = 4096
_BLOCKING = {
    Reason.CODE_NO_SCHEDULER,
    Reason.CODE_QUEUE_PAUSED,
    Reason.CODE_POOL_STARTING,
    Reason.CODE_POOL_CORDONED,
    Reason.CODE_NO_CAPACITY_FOR,
    Reason.CODE_NO_WORKER_HAS_TASK,
}
"""While one of them holds nobody can say when a job starts."""


def place_record(catalogue: Catalogue, job: JobRecord, now_us: int) -> job_pb2.Placement | None:
    """The placement of a stored job, or None where it waits no more.

    The store keeps no ranks: an older job counts everyone who waits as ahead of it.
    """
    if job.state not in WAITING:
        return None
    return place(
        catalogue,
        job.task,
        job.queue,
        job.needs_json,
        job.state,
        due_us=job.due_us,
        now_us=now_us,
        own=1,
    )


def place(
    catalogue: Catalogue,
    task: str,
    queue: str,
    needs_json: str,
    state: JobState,
    *,
    due_us: int | None,
    now_us: int,
    own: int = 0,
) -> job_pb2.Placement:
    """The placement of a waiting job; computed once per reading for equal jobs.

    own: 1 where the job itself is among those that the queue counts as waiting.
    """
    key = (task, queue, needs_json, state, due_us, own)
    found = catalogue.placements.get(key)
    if found is None:
        record = catalogue.queues.get(queue)
        ahead = _ahead(record, state, own) if record else 0
        found = job_pb2.Placement(approximate_position=ahead)
        _explain(found, catalogue, record, task, parse_needs(needs_json), state)
        _estimate(found, catalogue.rate(queue), ahead, state, due_us, now_us)
        if len(catalogue.placements) < MOST_CACHED and len(needs_json) <= LONGEST_REMEMBERED:
            catalogue.placements[key] = found
    return found


def _ahead(queue: QueueRecord, state: JobState, own: int) -> int:
    """What waits for a time is not ahead of a job: at its time it joins behind what waits."""
    own_is_ready = state not in (JobState.SCHEDULED, JobState.RETRYING)
    return max(0, queue.waiting - queue.not_due - (own if own_is_ready else 0))


def _explain(
    placement: job_pb2.Placement,
    catalogue: Catalogue,
    queue: QueueRecord | None,
    task: str,
    needs: Needs,
    state: JobState,
) -> None:
    if not catalogue.led:
        text = "no scheduler leads: nothing is started until one does"
        _add(placement, Reason.CODE_NO_SCHEDULER, text)
    if queue is not None and queue.paused:
        why = f": {queue.pause_reason}" if queue.pause_reason else ""
        _add(placement, Reason.CODE_QUEUE_PAUSED, f"queue {queue.name!r} is paused{why}")
    if state in (JobState.SCHEDULED, JobState.RETRYING):
        what = "schedule_time" if state is JobState.SCHEDULED else "backoff"
        _add(placement, Reason.CODE_NOT_DUE, f"its {what} has not passed")
    if state is JobState.BLOCKED:
        _add(placement, Reason.CODE_DEPENDENCIES, "it waits for parent jobs")
    fits = fitting(needs, catalogue.offers)
    if fits:
        placement.pool = fits[0].pool.name
        fits = _likely(fits)
        missing = _without_task(catalogue, fits, task)
        if missing:
            _add(placement, Reason.CODE_NO_WORKER_HAS_TASK, missing)
            return
        for code, message in _binding(fits, needs):
            _add(placement, code, message)
    elif catalogue.offers:
        # Admission refuses such a job; pools have changed since, or an OOM raised its needs.
        resource = lacking(needs, catalogue.offers[-1].shape) or ""
        text = f"no pool offers the {resource} it needs"
        _add(placement, Reason.CODE_NO_CAPACITY_FOR, text, resource)


def _likely(fits: list[Offer]) -> list[Offer]:
    """A job that needs no GPU goes to pools without, if one of them fits."""
    first = bool(fits[0].shape.gpu_millis)
    return [offer for offer in fits if bool(offer.shape.gpu_millis) == first]


def _without_task(catalogue: Catalogue, likely: list[Offer], task: str) -> str:
    """Why no worker can run this task, as a sentence; empty if one can, or if none is up."""
    names, build = ", ".join(offer.pool.name for offer in likely), likely[0].pool.build
    if task not in catalogue.tasks:
        return (
            f"no worker of {names} has task {task!r}: build {build or 'in use'} is without it;"
            " add its module to `tasks` in the settings, or install what brings it"
        )
    up = [offer for offer in likely if offer.pool.ready_workers]
    if up and all(task in offer.lacks for offer in up):
        return f"no worker of {names} has task {task!r} yet: build {build}, which has it, comes up"
    return ""


def _binding(fits: list[Offer], needs: Needs) -> Iterator[tuple[Reason.Code.ValueType, str]]:
    names = ", ".join(offer.pool.name for offer in fits)
    if not any(offer.pool.ready_workers for offer in fits):
        cordoned = any(offer.pool.cordoned_workers for offer in fits)
        if cordoned and not any(offer.pool.starting_workers for offer in fits):
            yield Reason.CODE_POOL_CORDONED, f"every worker of {names} is cordoned or drained"
            return
        yield Reason.CODE_POOL_STARTING, f"no worker of {names} is up yet"
    elif all(_is_full(offer, needs) for offer in fits):
        yield Reason.CODE_POOL_FULL, f"every worker of {names} is busy"


def _is_full(offer: Offer, needs: Needs) -> bool:
    room = offer.pool.ready_workers * max(1, slots(needs, offer.shape))
    return offer.pool.active_attempts >= room


def _add(
    placement: job_pb2.Placement,
    code: Reason.Code.ValueType,
    message: str,
    resource: str = "",
) -> None:
    # Cut: a batch has 1,000 placements, and its answer must not outgrow what a client takes.
    placement.waiting_reasons.add(code=code, message=cut(message), resource=resource)


def _estimate(
    placement: job_pb2.Placement,
    rate: Rate,
    ahead: int,
    state: JobState,
    due_us: int | None,
    now_us: int,
) -> None:
    """Sets the estimate where one is known: not while paused, starting, or never drained."""
    if _BLOCKING & {reason.code for reason in placement.waiting_reasons}:
        return
    full = any(r.code == Reason.CODE_POOL_FULL for r in placement.waiting_reasons)
    if rate.mean <= 0 and (ahead or full):
        return
    wait = ahead / rate.mean if ahead else 0.0
    if wait > LONGEST_ESTIMATE:
        return
    waiting = state in (JobState.SCHEDULED, JobState.RETRYING)
    start = max(now_us, due_us or 0) if waiting else now_us
    placement.estimated_start_time.CopyFrom(timestamp(start + round(wait * SECOND)))
    share = min(1.0, rate.deviation / rate.mean) if rate.mean > 0 else 0.0
    placement.estimated_start_spread.CopyFrom(span(max(LEAST_SPREAD, wait * share)))
