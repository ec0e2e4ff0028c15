"""The tables. Hot and cold live apart: a transition rewrites one small row of `jobs`.

Columns `*_us` are microseconds since the epoch by the store's clock; bodies are text, because
rows travel to the database as one parameter (see dialects.py).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData()


def _us(name: str, *, nullable: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


# One row per job, the only one that a transition updates. No column of a lease is in an index,
# and each index but the key is partial, so that a waiting job costs three entries and a
# finished one two.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    _text("tenant"),
    _text("task"),
    _text("queue"),
    Column("priority", SmallInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    # What the row was before the transition that `stamp` marks: events and counters read both.
    Column("prior_state", SmallInteger, nullable=False, server_default="0"),
    Column("stamp", BigInteger, nullable=False, server_default="0"),
    _count("sequence"),
    _count("fence"),
    _count("number"),
    Column("run", Integer, nullable=False, server_default="1"),
    _count("attempts"),
    _count("crashes"),
    _count("ooms"),
    _count("interruptions"),
    # The number of the newest log update of this lease: what is not above it is a repetition.
    Column("logged", BigInteger, nullable=False, server_default="0"),
    _us("created_us", nullable=False),
    _us("ready_us", nullable=False),
    _us("due_us"),
    # When waiting ends by a deadline: the queue's until the first start, then the total's.
    _us("expire_us"),
    _us("total_deadline_us"),
    # The span that a new run gets again.
    _us("total_timeout_us"),
    _us("first_started_us"),
    _us("leased_us"),
    _us("started_us"),
    _us("ended_us"),
    _text("worker_id", nullable=True),
    # The build of that worker.
    _text("build", nullable=True),
    _text("devices_json", nullable=True),
    Column("cancel_force", Boolean, nullable=False, server_default=text("false")),
    _text("needs_json"),
    # 1 where it needs a GPU. Part of the index of ready jobs: those that wait for a device must
    # not hide the ones behind them that wait for none.
    Column("gpu", SmallInteger, nullable=False, server_default="0"),
    _text("idempotency_key", nullable=True),
    _text("fingerprint"),
    # What it claims beside others of its tenant and task; see unique_claims.
    _text("unique_key", nullable=True),
    sqlite_with_rowid=False,
    postgresql_with={
        "fillfactor": "70",
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_cost_delay": "0",
    },
)


def _partial(name: str, *columns: object, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(
        name,
        *columns,  # type: ignore[arg-type]  # columns and text() both are accepted
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


_partial(
    "ix_jobs_ready",
    jobs.c.queue,
    jobs.c.tenant,
    jobs.c.gpu,
    jobs.c.priority.desc(),
    jobs.c.ready_us,
    jobs.c.id,
    where="state = 3",
)
_partial("ix_jobs_due", jobs.c.due_us, where="state IN (1, 6)")
_partial(
    "ix_jobs_expire", jobs.c.expire_us, where="expire_us IS NOT NULL AND state IN (1, 2, 3, 6)"
)
_partial("ix_jobs_held", jobs.c.id, where="state IN (4, 5, 7)")
_partial("ix_jobs_failed", jobs.c.id, where="state IN (9, 12)")
_partial(
    "ix_jobs_key",
    jobs.c.tenant,
    jobs.c.idempotency_key,
    where="idempotency_key IS NOT NULL",
    unique=True,
)

# What the caller sent: read once, when the job is leased or shown.
job_specs = Table(
    "job_specs",
    metadata,
    Column("job_id", Text, primary_key=True),
    # longshore.v1.JobSpec without its payload, base64.
    _text("spec"),
    _text("payload"),
)

# What came of it.
job_results = Table(
    "job_results",
    metadata,
    Column("job_id", Text, primary_key=True),
    _text("value_json", nullable=True),
    _text("artifacts_json", nullable=True),
    _text("failure_json", nullable=True),
)

# The newest progress; `count` only grows and is part of the revision of the job.
job_progress = Table(
    "job_progress",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    _text("body_json", nullable=True),
    _us("time_us", nullable=False),
)

job_checkpoints = Table(
    "job_checkpoints",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("fence", Integer, nullable=False),
    _text("value_json"),
    _us("time_us", nullable=False),
)

job_labels = Table(
    "job_labels",
    metadata,
    _text("name"),
    _text("value"),
    _text("job_id"),
    PrimaryKeyConstraint("name", "value", "job_id"),
    Index("ix_job_labels_job", "job_id"),
    sqlite_with_rowid=False,
)

# Attempts that ended without a result, and the successful ones of earlier runs. The newest
# attempt of a running or succeeded job is read off the row of the job.
attempts = Table(
    "attempts",
    metadata,
    _text("job_id"),
    Column("fence", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    _text("worker_id", nullable=True),
    _us("queued_us"),
    _us("leased_us"),
    _us("started_us"),
    _us("ended_us"),
    Column("failure_class", SmallInteger, nullable=False),
    _text("failure_json", nullable=True),
    _text("devices_json", nullable=True),
    _text("build", nullable=True),
    PrimaryKeyConstraint("job_id", "fence"),
    sqlite_with_rowid=False,
)

# Durable events. `sequence` is dense per job; a bounded tail is kept.
events = Table(
    "events",
    metadata,
    _text("job_id"),
    Column("sequence", Integer, nullable=False),
    _us("time_us", nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("from_state", SmallInteger, nullable=False),
    Column("to_state", SmallInteger, nullable=False),
    _text("reason"),
    _us("due_us"),
    _text("body_json", nullable=True),
    PrimaryKeyConstraint("job_id", "sequence"),
    sqlite_with_rowid=False,
)

# Who holds a uniqueness key. until_us is unset while the claim lasts as long as the job.
unique_claims = Table(
    "unique_claims",
    metadata,
    _text("tenant"),
    _text("task"),
    _text("key"),
    _text("job_id"),
    _us("until_us"),
    PrimaryKeyConstraint("tenant", "task", "key"),
    # A job that is run again, or deleted, looks for the claim that it held.
    Index("ix_unique_claims_job", "job_id"),
)

# Keys of calls that were accepted, with the job or the redrive that they made; deleted with it.
accepted_keys = Table(
    "accepted_keys",
    metadata,
    _text("tenant"),
    _text("key"),
    _text("fingerprint"),
    _text("made_id"),
    _us("created_us", nullable=False),
    PrimaryKeyConstraint("tenant", "key"),
    Index("ix_accepted_keys_made", "made_id"),
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("pause_reason", Text, nullable=False, server_default=""),
    _us("paused_us"),
    Column("maximum_waiting", BigInteger, nullable=False),
    _us("attempt_timeout_us"),
    _text("overflow_to"),
)

# Counters in shards: each process adds to rows of its own, so that two writers never wait for
# one another's row. A reader sums; a sum is exact, a single row means nothing.
queue_counts = Table(
    "queue_counts",
    metadata,
    _text("queue"),
    _text("tenant"),
    _text("writer"),
    Column("waiting", BigInteger, nullable=False),
    Column("active", BigInteger, nullable=False),
    Column("drained", BigInteger, nullable=False),
    PrimaryKeyConstraint("queue", "tenant", "writer"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("name", Text, primary_key=True),
    _text("document_json"),
)

pools = Table(
    "pools",
    metadata,
    Column("name", Text, primary_key=True),
    _text("shape_json"),
    _count("minimum_workers"),
    _count("maximum_workers"),
    _count("ready_workers"),
    _count("starting_workers"),
    _count("active_attempts"),
    Column("simulated", Boolean, nullable=False),
    # The build that its workers are brought to, and the tasks that none of them has yet.
    Column("build", Text, nullable=False, server_default=""),
    Column("lacks_json", Text, nullable=False, server_default="[]"),
    _count("cordoned_workers"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    _text("pool"),
    Column("state", SmallInteger, nullable=False),
    _text("node"),
    Column("pid", Integer, nullable=False),
    _text("shape_json"),
    _text("devices_json"),
    _count("active_attempts"),
    _us("started_us", nullable=False),
    _us("heartbeat_us", nullable=False),
    Column("build", Text, nullable=False, server_default=""),
    Column("build_description", Text, nullable=False, server_default=""),
    # What people ordered: 0 nothing, else the WorkerState it is to have. Not part of what the
    # scheduler publishes, so that its next heartbeat does not undo an order.
    Column("ordered", SmallInteger, nullable=False, server_default="0"),
    # Until when a drained worker may finish what it has; then the rest is released. NULL once
    # nothing is left on it.
    _us("drain_until_us"),
    _count("drain_finished"),
    _count("drain_released"),
)

# Dead letters that are being queued again, and those that were: who did it, why, how it went.
redrives = Table(
    "redrives",
    metadata,
    Column("id", Text, primary_key=True),
    _text("tenant"),
    _text("selection_json"),
    # Jobs in a thousand seconds.
    Column("rate_milli", BigInteger, nullable=False),
    # Failures in a thousand redriven above which it stops.
    Column("maximum_failures_milli", Integer, nullable=False),
    _text("reason"),
    _text("actor"),
    Column("state", SmallInteger, nullable=False),
    Column("stop_reason", Text, nullable=False, server_default=""),
    _us("created_us", nullable=False),
    _us("ended_us"),
    # Jobs are taken in the order of their ids; up to this one they were.
    _text("after_id"),
    Column("total", BigInteger, nullable=False),
    Column("redriven", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
)

# The jobs of a redrive, and the run that it gave each of them.
redrive_jobs = Table(
    "redrive_jobs",
    metadata,
    _text("redrive_id"),
    _text("job_id"),
    Column("run", Integer, nullable=False),
    PrimaryKeyConstraint("redrive_id", "job_id"),
    Index("ix_redrive_jobs_job", "job_id"),
    sqlite_with_rowid=False,
)

# One row: whose database this is. Two deployments on one would take one another's workers away.
deployment = Table(
    "deployment",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    _text("cluster"),
)

# One row, 'scheduler': who leads, until when, and the term that fences the writes.
leaders = Table(
    "leaders",
    metadata,
    Column("name", Text, primary_key=True),
    Column("term", BigInteger, nullable=False),
    _text("leader_id"),
    _us("until_us", nullable=False),
)
