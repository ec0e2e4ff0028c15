"""Orders to workers, redrives, claims by job, and whose database it is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _order_workers()
    _create_redrives()
    op.create_index("ix_unique_claims_job", "unique_claims", ["job_id"])
    op.create_table(
        "deployment",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _order_workers() -> None:
    for column in (
        sa.Column("ordered", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("drain_until_us", sa.BigInteger(), nullable=True),
        sa.Column("drain_finished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("drain_released", sa.Integer(), server_default="0", nullable=False),
    ):
        op.add_column("workers", column)


def _create_redrives() -> None:
    op.create_table(
        "redrives",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("selection_json", sa.Text(), nullable=False),
        sa.Column("rate_milli", sa.BigInteger(), nullable=False),
        sa.Column("maximum_failures_milli", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("stop_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("after_id", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("redriven", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "redrive_jobs",
        sa.Column("redrive_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("redrive_id", "job_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_redrive_jobs_job", "redrive_jobs", ["job_id"])
