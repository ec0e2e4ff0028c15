"""Leased jobs, handed to their workers: one call for each worker, and what follows a refusal."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Assignment, Failure
from longshore_scheduler.cluster import WorkerGone
from longshore_scheduler.crew import UNDELIVERED, Crew
from longshore_scheduler.policy import REFUSED
from longshore_scheduler.roster import Held, Told, Worker, WorkerState
from longshore_scheduler.specs import read_spec, wire_needs
from longshore_scheduler.term import Term
from longshore_scheduler.time_limits import attempt_limit
from longshore_store.model import Leased
from longshore_store.needs import parse_needs
from longshore_store.settings import QueueSettings
from longshore_store.telling import without_values

_log = logging.getLogger(__name__)
_UNAVAILABLE = 14

REFUSALS = 3
"""Attempts in a row that a worker may refuse before it is replaced."""


class Delivery:
    """Sends attempts to workers; what a worker does not take goes back to the queue."""

    def __init__(self, term: Term, crew: Crew) -> None:
        self._term = term
        self._crew = crew

    async def hand_over(self, leased: Sequence[Leased]) -> int:
        """Sends leased jobs to their workers, one call each. Returns how many were sent."""
        batches: defaultdict[str, list[Assignment]] = defaultdict(list)
        homeless: list[Held] = []
        now_us, roster = self._term.store.now_us(), self._term.roster
        for job in leased:
            held = roster.held[job.id]
            held.bind(job)
            # Replaced since it was planned, it takes another room, or another worker.
            other = parse_needs(job.needs_json) != held.needs
            if other or held.worker is None or held.worker.state is WorkerState.LOST:
                homeless.append(held)
            else:
                queue = self._term.queues.get(job.queue)
                batches[job.worker_id].append(to_assignment(job, queue, now_us))
        for worker_id, assignments in batches.items():
            self._term.spawn(self._deliver(worker_id, assignments), f"assign {worker_id}")
        if homeless:
            await self._crew.release(homeless, UNDELIVERED)
        return len(leased) - len(homeless)

    async def _deliver(self, worker_id: str, assignments: list[Assignment]) -> None:
        """Halves what is refused until it is clear which attempts the worker does not take."""
        worker = self._term.roster.workers.get(worker_id)
        if worker is None:
            return  # its attempts were released with it
        parts = [assignments]
        while parts and worker.state is not WorkerState.LOST:
            part = parts.pop()
            error = await self._try(worker, part)
            if error is None:
                worker.refusals = 0
            elif len(part) > 1:
                half = len(part) // 2
                parts += (part[half:], part[:half])
            else:
                await self._refused(worker, part[0], error)
                if worker.outdated:
                    await self._crew.give_up(self._held(a for part in parts for a in part))
                    return

    async def _try(self, worker: Worker, assignments: list[Assignment]) -> Exception | None:
        """One call. Returns why the worker, which lives, took nothing of it."""
        try:
            await self._term.cluster.assign(worker.id, assignments)
        except WorkerGone as error:
            await self._crew.lose(worker, str(error))
        except TimeoutError:
            self._ask_back(worker, assignments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be sent for ever
            return error
        return None

    async def _refused(self, worker: Worker, assignment: Assignment, error: Exception) -> None:
        """Counts for the attempt, which is tried later, and for the worker."""
        _log.error(
            "worker %s refused job %s: %s",
            worker.id,
            assignment.job_id,
            without_values(error),
            extra={"job_id": assignment.job_id, "worker_id": worker.id},
        )
        worker.refusals += 1
        if worker.refusals >= REFUSALS:
            worker.set_aside("it refused what it was given")
        why = f"worker {worker.id} refused it: {type(error).__name__}"
        failure = Failure(FailureClass.WORKER_LOST, _UNAVAILABLE, REFUSED, why)
        await self._crew.release(self._held([assignment]), failure)

    def _held(self, assignments: Iterable[Assignment]) -> list[Held]:
        found = (self._term.roster.find(a.job_id, a.fence) for a in assignments)
        return [held for held in found if held is not None]

    def _ask_back(self, worker: Worker, assignments: Sequence[Assignment]) -> None:
        """The worker may have them or not, and may be well: its lease and its reports decide."""
        worker.answers = False  # no more for it until it does
        pairs = []
        for held in self._held(assignments):
            if held.started_at is None:
                held.order(max(held.told, Told.RECALL), self._term.clock())
                pairs.append((held.job_id, held.fence))
        if pairs:
            self._crew.tell(worker.id, self._term.cluster.recall(worker.id, pairs))


def to_assignment(job: Leased, queue: QueueSettings | None, now_us: int) -> Assignment:
    """What the worker is told. The attempt may not outlive the job's total deadline."""
    facts = read_spec(job.spec)
    timeout = attempt_limit(facts.attempt_timeout, queue)
    if job.total_deadline_us is not None:
        left = max((job.total_deadline_us - now_us) / 1e6, 0.001)
        timeout = left if timeout is None else min(timeout, left)
    return Assignment(
        job.id,
        job.fence,
        job.number,
        job.task,
        job.tenant,
        job.payload,
        facts.inputs,
        wire_needs(job.needs_json),
        timeout,
        facts.cancel_grace,
        job.checkpoint_json,
    )
