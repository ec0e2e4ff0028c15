"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_jobs()
    _index_jobs()
    _create_bodies()
    _create_history()
    _create_topology()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("prior_state", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("stamp", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sequence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("run", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ooms", sa.Integer(), server_default="0", nullable=False),
        sa.Column("interruptions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("logged", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("ready_us", sa.BigInteger(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=True),
        sa.Column("expire_us", sa.BigInteger(), nullable=True),
        sa.Column("total_deadline_us", sa.BigInteger(), nullable=True),
        sa.Column("total_timeout_us", sa.BigInteger(), nullable=True),
        sa.Column("first_started_us", sa.BigInteger(), nullable=True),
        sa.Column("leased_us", sa.BigInteger(), nullable=True),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("build", sa.Text(), nullable=True),
        sa.Column("devices_json", sa.Text(), nullable=True),
        sa.Column("cancel_force", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("needs_json", sa.Text(), nullable=False),
        sa.Column("gpu", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("unique_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={
            "fillfactor": "70",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_cost_delay": "0",
        },
        sqlite_with_rowid=False,
    )


def _index_jobs() -> None:
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["due_us"],
        unique=False,
        sqlite_where=sa.text("state IN (1, 6)"),
        postgresql_where=sa.text("state IN (1, 6)"),
    )
    op.create_index(
        "ix_jobs_expire",
        "jobs",
        ["expire_us"],
        unique=False,
        sqlite_where=sa.text("expire_us IS NOT NULL AND state IN (1, 2, 3, 6)"),
        postgresql_where=sa.text("expire_us IS NOT NULL AND state IN (1, 2, 3, 6)"),
    )
    op.create_index(
        "ix_jobs_failed",
        "jobs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state IN (9, 12)"),
        postgresql_where=sa.text("state IN (9, 12)"),
    )
    op.create_index(
        "ix_jobs_held",
        "jobs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state IN (4, 5, 7)"),
        postgresql_where=sa.text("state IN (4, 5, 7)"),
    )
    op.create_index(
        "ix_jobs_key",
        "jobs",
        ["tenant", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_ready",
        "jobs",
        ["queue", "tenant", "gpu", sa.literal_column("priority DESC"), "ready_us", "id"],
        unique=False,
        sqlite_where=sa.text("state = 3"),
        postgresql_where=sa.text("state = 3"),
    )


def _create_bodies() -> None:
    op.create_table(
        "job_checkpoints",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("value_json", sa.Text(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "job_progress",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("body_json", sa.Text(), nullable=True),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "job_results",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("value_json", sa.Text(), nullable=True),
        sa.Column("artifacts_json", sa.Text(), nullable=True),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "job_specs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id"),
    )


def _create_history() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("queued_us", sa.BigInteger(), nullable=True),
        sa.Column("leased_us", sa.BigInteger(), nullable=True),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("failure_class", sa.SmallInteger(), nullable=False),
        sa.Column("failure_json", sa.Text(), nullable=True),
        sa.Column("devices_json", sa.Text(), nullable=True),
        sa.Column("build", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "fence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("from_state", sa.SmallInteger(), nullable=False),
        sa.Column("to_state", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=True),
        sa.Column("body_json", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_labels",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "value", "job_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_job_labels_job", "job_labels", ["job_id"])
    op.create_table(
        "unique_claims",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "task", "key"),
    )
    op.create_table(
        "accepted_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("made_id", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key"),
    )
    op.create_index("ix_accepted_keys_made", "accepted_keys", ["made_id"])


def _create_topology() -> None:
    op.create_table(
        "leaders",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("leader_id", sa.Text(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "pools",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("shape_json", sa.Text(), nullable=False),
        sa.Column("minimum_workers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("maximum_workers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ready_workers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("starting_workers", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("build", sa.Text(), server_default="", nullable=False),
        sa.Column("lacks_json", sa.Text(), server_default="[]", nullable=False),
        sa.Column("cordoned_workers", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "queue_counts",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("waiting", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.BigInteger(), nullable=False),
        sa.Column("drained", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "tenant", "writer"),
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("(false)"), nullable=False),
        sa.Column("pause_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("paused_us", sa.BigInteger(), nullable=True),
        sa.Column("maximum_waiting", sa.BigInteger(), nullable=False),
        sa.Column("attempt_timeout_us", sa.BigInteger(), nullable=True),
        sa.Column("overflow_to", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tasks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("shape_json", sa.Text(), nullable=False),
        sa.Column("devices_json", sa.Text(), nullable=False),
        sa.Column("active_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_us", sa.BigInteger(), nullable=False),
        sa.Column("build", sa.Text(), server_default="", nullable=False),
        sa.Column("build_description", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
