"""Deadlines of the bus that are never met, and those that it has."""

from __future__ import annotations

from longshore_store.bus import feed, link
from tests.store import patience
from tests.store.patience import Set

NEVER = 3600.0
_IN_USE = {name: getattr(link, name) for name in ("OPENING", "ROUND_TRIP", "UNANSWERED")}


def be_patient(set_to: Set = setattr) -> None:
    """A pause, here or of Redis, breaks no link and loses no hint."""
    patience.be_patient(set_to)
    for name in _IN_USE:
        set_to(link, name, NEVER)
    slow = {"socket_timeout": NEVER, "socket_connect_timeout": NEVER}
    set_to(link, "_OURS", {**link._OURS, **slow})
    set_to(feed, "RECENT", NEVER)


def be_strict(set_to: Set) -> None:
    """From here on a Redis that does not answer is noticed as it is in use."""
    for name, value in _IN_USE.items():
        set_to(link, name, value)
