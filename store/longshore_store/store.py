"""Store: what the rest of Longshore may ask of the truth, and nothing else.

Every write is durable when its call returns. A transition takes many jobs at once, is guarded
by state and fence, and answers with the ids it did not apply to: stale, never an error.
Writes of a scheduler carry its term and raise Fenced once another leader has a newer one.
Any call may raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from longshore_store.model import (
    Accepted,
    ActiveAttempt,
    Attempted,
    AttemptRecord,
    CallKey,
    CheckpointUpdate,
    Completion,
    Head,
    JobChanges,
    JobQuery,
    JobRecord,
    Lane,
    Lease,
    Leased,
    LogUpdate,
    NewJob,
    ProgressUpdate,
    Setback,
    Start,
)
from longshore_store.orders import CancelOrder, DrainUpdate, WorkerOrder
from longshore_store.redrive_records import Advanced, DeadLetters, Purged, RedriveRecord
from longshore_store.retention_records import Ages, Ended, Prunable, Spent
from longshore_store.topology_records import (
    LeaderRecord,
    PoolRecord,
    QueueDeclaration,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)

Stale = list[str]
"""Ids of jobs that a transition did not apply to, because state or fence had moved on."""

Listener = Callable[[Iterable[str]], None]
"""Called after a commit with the ids of the jobs that changed; must return at once."""


class Store(Protocol):
    """The durable state of Longshore. All methods may be called from one event loop at once."""

    async def open(self) -> None:
        """Connects, migrates, and takes the lock of an embedded database."""

    async def close(self) -> None:
        """Finishes pending writes and disconnects."""

    def now_us(self) -> int:
        """The store's clock: microseconds since the epoch. Never falls."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` after commits of this process; returns the way to stop. Hints only."""

    # -- submitting

    async def submit_jobs(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """Accepts every job or none, in order.

        Raises:
            IdempotencyConflict, UniquenessConflict, QueueFull: nothing was stored.
        """

    async def check_jobs(self, jobs: Sequence[NewJob]) -> list[Accepted]:
        """What submit_jobs would answer or raise, storing nothing."""

    async def cancel_jobs(self, job_ids: Sequence[str], reason: str, force: bool) -> Stale:
        """Waiting jobs become CANCELLED, leased and running ones CANCELLING; repeatable.

        Stale are jobs already terminal or cancelling, and unknown ids.
        """

    async def retry_jobs(
        self,
        job_ids: Sequence[str],
        reason: str,
        actor: str = "",
        *,
        run: int | None = None,
        key: CallKey | None = None,
    ) -> Stale:
        """Terminal jobs are queued again as a new run. Stale are jobs that are not terminal, or
        not in the run that is given. A key goes with one job: under a key that was accepted
        before nothing is done, and nothing is stale.

        Reason and actor go with the event. Stale is also a job whose uniqueness key another job
        holds by now.

        Raises:
            IdempotencyConflict: the key belongs to another call.
            UniquenessConflict: of one job, another one holds its uniqueness key.
        """

    async def find_accepted(self, keys: Sequence[CallKey]) -> list[Accepted | None]:
        """What each call got that was accepted under such a key, if it was the same call."""

    # -- reading jobs

    async def read_job(self, job_id: str, *, full: bool = False) -> JobRecord | None:
        """One job; `full` adds payload, result and the newest attempts, at most 20."""

    async def read_jobs(self, job_ids: Sequence[str], *, full: bool = False) -> list[JobRecord]:
        """Those of the jobs that exist, in no particular order."""

    async def list_attempts(
        self, job_id: str, before: int | None, limit: int
    ) -> list[AttemptRecord]:
        """Attempts of a job whose fence is smaller than `before`, the newest first."""

    async def list_jobs(self, query: JobQuery, *, full: bool = False) -> list[JobRecord]:
        """One page, in the order of the query."""

    async def read_changes(self, cursors: Mapping[str, int]) -> list[JobChanges]:
        """For each job that exists: its state, and at most 256 events after its cursor."""

    # -- dead letters

    async def list_dead_letters(
        self, letters: DeadLetters, after_id: str | None, limit: int, *, full: bool = False
    ) -> list[JobRecord]:
        """One page, the newest job first; after_id is the last job of the page before."""

    async def count_dead_letters(self, letters: DeadLetters) -> dict[tuple[str, str], int]:
        """How many there are, by task and queue. Takes longer with the dead letters there are,
        those of other tenants included."""

    async def purge_dead_letters(self, letters: DeadLetters, after_id: str, limit: int) -> Purged:
        """Deletes all there is of the next dead letters after an id, "" at first: at most `limit`
        of them, out of a bounded number of failed jobs, in one transaction."""

    async def create_redrive(
        self, redrive: RedriveRecord, key: CallKey | None = None
    ) -> RedriveRecord:
        """Begins a redrive; its id must be new. The leader finds it within a second.

        Returns it, or the one that was begun under this key before.

        Raises:
            IdempotencyConflict: the key belongs to another call.
        """

    async def stop_redrive(self, redrive_id: str, tenant: str, reason: str) -> RedriveRecord | None:
        """Ends a redrive that runs, as STOPPED. Returns it, as it ended before where it had;
        None where the tenant has none of that id."""

    async def list_redrives(
        self, tenant: str, after_id: str | None, limit: int
    ) -> list[RedriveRecord]:
        """One page of a tenant's redrives, the newest first."""

    async def running_redrives(self) -> list[RedriveRecord]:
        """Redrives that have not ended, at most 64: the oldest of each tenant, then the next."""

    # -- the scheduler's writes

    async def advance_redrive(self, term: int, redrive_id: str, limit: int) -> Advanced | None:
        """Queues at most `limit` more jobs of a redrive, each as a new run; none twice.

        In the order of their ids, out of a bounded number of failed jobs, and only what was a
        dead letter when the redrive was made; so it may take none and still go on. It ends here:
        COMPLETED with the last job, TRIPPED where too many have failed again. `limit` is at
        least 1.
        Returns None where it was over already.
        """

    async def lead(self, leader_id: str, ttl_us: int) -> int | None:
        """Takes or renews leadership. Returns the term, or None while another one leads."""

    async def resign(self, leader_id: str) -> None:
        """Gives leadership up at once."""

    async def require_term(self, term: int) -> None:
        """Writes nothing. Raises Fenced where the term is not the newest."""

    async def promote_jobs(self, term: int, limit: int) -> int:
        """Queues scheduled and retrying jobs that are due. Returns how many."""

    async def expire_jobs(self, term: int, limit: int) -> int:
        """Ends waiting jobs whose queue or total deadline passed. Returns how many."""

    async def lease_jobs(self, term: int, leases: Sequence[Lease]) -> list[Leased]:
        """Leases queued jobs to workers. Returns those it applied to, ready to be assigned."""

    async def start_attempts(self, term: int, starts: Sequence[Start]) -> Stale:
        """LEASED to RUNNING."""

    async def complete_attempts(self, term: int, completions: Sequence[Completion]) -> Stale:
        """To SUCCEEDED with the result."""

    async def fail_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """To FAILED."""

    async def retry_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """To RETRYING until due_us; counts an attempt (a crash, an OOM) by failure class."""

    async def dead_letter_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """To DEAD_LETTERED."""

    async def release_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """Back to QUEUED with a refund. WORKER_LOST and DEVICE_FAULT count an interruption."""

    async def demote_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """To QUEUED in the `queue` of the setback, with a refund."""

    async def expire_attempts(self, term: int, setbacks: Sequence[Setback]) -> Stale:
        """To EXPIRED."""

    async def confirm_cancels(self, term: int, attempts: Sequence[Attempted]) -> Stale:
        """CANCELLING to CANCELLED, for attempts that have ended, however they ended."""

    async def record_progress(self, term: int, updates: Sequence[ProgressUpdate]) -> None:
        """Keeps the newest progress of attempts that still hold their lease."""

    async def record_logs(self, term: int, updates: Sequence[LogUpdate]) -> None:
        """Appends log events of attempts that still hold their lease."""

    async def save_checkpoints(self, term: int, updates: Sequence[CheckpointUpdate]) -> None:
        """Keeps the newest checkpoint of attempts that still hold their lease."""

    # -- what keeps it healthy: the leader's chores

    async def prunable_jobs(self, ages: Ages, after_id: str, limit: int) -> Prunable:
        """Of the next 4 * `limit` jobs by id: at most `limit` that are to be deleted, or their log
        lines. Jobs with many events count for several."""

    async def spent_checkpoints(self, after_id: str, limit: int) -> Spent:
        """Of the next `limit` checkpoints by job id, those of jobs that have succeeded."""

    async def prune_jobs(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """Deletes all there is of jobs. Stale are those that did not end then, or are in use."""

    async def prune_logs(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """Deletes log lines of jobs, and the state changes before the last one: the events that
        stay are dense, and a watch from before them begins with a gap. Stale as above."""

    async def prune_checkpoints(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """Deletes the checkpoints of jobs. Stale as above."""

    async def prune_redrives(self, term: int, before_us: int, limit: int) -> int:
        """Deletes redrives that ended by then and of whose jobs none is left. Returns how many."""

    async def compact_counts(self, term: int, limit: int) -> int:
        """Merges at most `limit` counters of other processes into this one's, those in use left
        out. Returns how many; a process that goes on counting makes new ones."""

    # -- the scheduler's reads

    async def waiting_lanes(self) -> list[Lane]:
        """Every unpaused (queue, tenant) with waiting jobs."""

    async def queue_heads(
        self, lanes: Sequence[tuple[Lane, int]], without: Sequence[str] = ()
    ) -> list[Head]:
        """At most so many QUEUED jobs of each lane that need no GPU, and as many, up to 256,
        that do: a run of jobs which wait for devices must not hide those behind it. Priority
        first, then age. Jobs of the tasks `without` are passed over."""

    async def active_attempts(self) -> list[ActiveAttempt]:
        """Every job that a worker holds."""

    async def cancel_orders(self) -> list[CancelOrder]:
        """Every CANCELLING job."""

    async def next_due_us(self) -> int | None:
        """When promote_jobs or expire_jobs next has something to do; None for never."""

    # -- queues, tasks, pools, workers

    async def declare_queues(
        self, queues: Sequence[QueueDeclaration], term: int | None = None
    ) -> None:
        """Makes the declared queues exist as declared; keeps others that hold jobs.

        A leader gives its term here, and where it publishes: Fenced then keeps what a newer one
        has declared. None is for who starts before anybody leads.
        """

    async def list_queues(self) -> list[QueueRecord]:
        """Every queue, by name."""

    async def pause_queue(self, name: str, reason: str) -> bool:
        """Stops leases from a queue. False where there is no such queue."""

    async def resume_queue(self, name: str) -> bool:
        """Undoes pause_queue. False where there is no such queue."""

    async def publish_tasks(self, tasks: Sequence[TaskRecord], term: int | None = None) -> None:
        """Replaces the catalogue of tasks."""

    async def leader(self) -> LeaderRecord | None:
        """The scheduler that leads or led last; None before the first one. It leads while the
        store's time is below `until_us`."""

    async def list_tasks(self) -> list[TaskRecord]:
        """The catalogue, by name."""

    async def publish_pools(self, pools: Sequence[PoolRecord], term: int | None = None) -> None:
        """Replaces the pools."""

    async def list_pools(self) -> list[PoolRecord]:
        """The pools, by name."""

    async def record_workers(self, term: int, workers: Sequence[WorkerRecord]) -> None:
        """Inserts or replaces workers; what was ordered of them stays. Raises Fenced, so that
        nobody brings back what another leader has removed."""

    async def remove_workers(self, term: int, worker_ids: Sequence[str]) -> None:
        """Forgets workers. Raises Fenced, so that nobody ends what is another leader's."""

    async def list_workers(self) -> list[WorkerRecord]:
        """The workers, by id."""

    async def order_workers(
        self, worker_ids: Sequence[str], state: int, drain_until_us: int | None = None
    ) -> None:
        """Orders a WorkerState of workers: READY, CORDONED, or DRAINING until a time.

        A scheduler carries it out, this leader or the next. An order to drain stands: later
        ones, another drain included, change nothing. Unknown ids are ignored.
        """

    async def worker_orders(self) -> list[WorkerOrder]:
        """What was ordered of workers, by id; none for a worker that nobody gave an order."""

    async def record_drains(self, term: int, drains: Sequence[DrainUpdate]) -> None:
        """Adds to the counts of drains, and says which workers are idle."""
