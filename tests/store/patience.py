"""Deadlines that no slow machine meets by chance. A test of a deadline sets its own."""

from __future__ import annotations

from collections.abc import Callable

from longshore_store import opening
from longshore_store.dialects import postgres

LONG = 60.0
"""Seconds, also for tests that wait: it costs nothing where all is well."""

Set = Callable[[object, str, object], None]


def be_patient(set_to: Set = setattr) -> None:
    """A process that pauses loses neither its transaction nor its way to the database."""
    set_to(opening, "OPEN_DEADLINE", LONG)
    set_to(postgres, "CONNECT_DEADLINE", LONG)
    set_to(postgres, "STALLED_MS", round(LONG * 1000))
