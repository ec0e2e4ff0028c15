"""Migrations: run at open by Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from longshore_store.tables import metadata

HEAD = "0001"


def migrate(connection: Connection) -> None:
    """Brings the schema to HEAD. Processes that start together must take turns.

    The two usual starts, of a new database and of one that is at HEAD, are spared the third of a
    second that Alembic takes to be imported; that tables.py says what the revisions say is a test.
    """
    found = _revision(connection)
    if found == HEAD:
        return
    if found is None:
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
        return
    upgrade(connection, "head")


def upgrade(connection: Connection, revision: str) -> None:
    """Runs the revisions up to `revision`."""
    from alembic import command  # noqa: PLC0415  # see migrate
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found
