"""Alembic's entry: runs on the connection that `migrate` hands over."""

from alembic import context

from longshore_store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction is the transaction
)
context.run_migrations()
