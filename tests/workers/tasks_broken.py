"""A task module that cannot be imported."""

raise RuntimeError("no licence, see https://me:secret@host/")
