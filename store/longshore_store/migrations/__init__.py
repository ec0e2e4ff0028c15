"""The schema: made new, migrated by Alembic, or refused."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from longshore_store.model import StoreMismatch
from longshore_store.tables import metadata

HEAD = "0002"


def prepare(connection: Connection, *, shared: bool) -> None:
    """The schema as a store needs it when it opens. Processes that start together must take turns.

    An older schema of a `shared` database is left to `longshore migrate`: the processes of the
    last release that write to it are to be there on purpose, not because one pod was quicker.

    Raises:
        StoreMismatch: the schema is not this release's; nothing was touched.
    """
    found = _revision(connection)
    if shared and found is not None and found < HEAD:
        raise StoreMismatch(
            f"the database is at schema {found} and this release needs {HEAD}: run"
            " `longshore migrate --store URL` once, then start this process again"
        )
    _bring(connection, found)


def migrate(connection: Connection) -> str | None:
    """Brings the schema to HEAD. Returns the revision that it had, None for a new database.

    Raises:
        StoreMismatch: the schema is newer, or somebody else's; nothing was touched.
    """
    found = _revision(connection)
    _bring(connection, found)
    return found


def _bring(connection: Connection, found: str | None) -> None:
    # The two usual starts, of a new database and of one that is at HEAD, are spared the third of
    # a second that Alembic takes to be imported; that tables.py says what the revisions say is a
    # test.
    if found is None:
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    elif found > HEAD:
        raise StoreMismatch(
            f"this release knows schemas up to {HEAD} and the database is at {found}:"
            " upgrade this process"
        )
    elif found < HEAD:
        upgrade(connection, "head")


def load() -> None:
    """Imports what `upgrade` needs, before a transaction: a server ends one that idles for 5 s,
    which is what the imports may take on a busy machine."""
    import alembic.command  # noqa: PLC0415
    import alembic.config  # noqa: F401, PLC0415


def upgrade(connection: Connection, revision: str) -> None:
    """Runs the revisions up to `revision`."""
    from alembic import command  # noqa: PLC0415  # see _bring
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _revision(connection: Connection) -> str | None:
    """The revision of the database, four digits; None where it has no table of ours."""
    inspector = inspect(connection)
    if inspector.has_table("alembic_version"):
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if isinstance(found, str) and len(found) == len(HEAD) and found.isdecimal():
            return found
        raise StoreMismatch(
            f"the database has a table 'alembic_version' with {found!r}, which is no schema of"
            " Longshore: give Longshore a database of its own"
        )
    if taken := sorted(metadata.tables.keys() & set(inspector.get_table_names())):
        raise StoreMismatch(
            f"the database has a table {taken[0]!r} that Longshore has not made (there is no"
            " table 'alembic_version'): give Longshore a database of its own"
        )
    return None
