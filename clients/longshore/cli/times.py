"""Moments and durations in words."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

NONE = "-"


def age(stamp: Timestamp, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that fits: 12s, 5m, 3h, 2d."""
    if not stamp.seconds:
        return NONE
    seconds = (now or datetime.now(UTC)).timestamp() - stamp.seconds
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if abs(seconds) >= length:
            return f"{int(seconds / length)}{unit}"
    return f"{int(seconds)}s"


def due(stamp: Timestamp, now: datetime | None = None) -> str:
    """When the next attempt is due, such as "attempt in 5s"; empty if there is none."""
    if not stamp.seconds:
        return ""
    passed = age(stamp, now)
    return f"attempt in {passed[1:]}" if passed.startswith("-") else "attempt now"


def moment(stamp: Timestamp) -> str:
    """In the time of this machine, with its age: 2026-01-31 18:00:05+01:00 (2h ago)."""
    if not stamp.seconds:
        return ""
    passed = age(stamp)
    relation = f"in {passed[1:]}" if passed.startswith("-") else f"{passed} ago"
    return f"{local(stamp).isoformat(' ', 'seconds')} ({relation})"


def clock(stamp: Timestamp) -> str:
    """The time of day on this machine: 18:00:05; empty if there is none."""
    return f"{local(stamp):%H:%M:%S}" if stamp.seconds else ""


def local(stamp: Timestamp) -> datetime:
    """The moment in the zone of this machine."""
    return stamp.ToDatetime(tzinfo=UTC).astimezone()


def took(start: Timestamp, end: Timestamp) -> str:
    """How long from one to the other, until now if there is no end; NONE without a start."""
    if not start.seconds:
        return NONE
    last = end.ToNanoseconds() / 1e9 if end.seconds else datetime.now(UTC).timestamp()
    return lasting(max(0.0, last - start.ToNanoseconds() / 1e9))


def lasting(seconds: float) -> str:
    """A duration in its two largest units: 350ms, 3.2s, 5m12s, 2h05m, 3d4h."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24}h"
