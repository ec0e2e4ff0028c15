"""Microseconds since the epoch here, Timestamp and Duration on the wire."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def timestamp(us: int) -> Timestamp:
    """The time as a message."""
    seconds, rest = divmod(us, SECOND)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(time: Timestamp | Duration) -> int:
    """The time or the span in microseconds; what is finer is cut off."""
    return time.seconds * SECOND + time.nanos // 1000


def duration(us: int) -> Duration:
    """The span as a message; `us` is not negative."""
    seconds, rest = divmod(us, SECOND)
    return Duration(seconds=seconds, nanos=rest * 1000)


def span(seconds: float) -> Duration:
    """The span as a message, from seconds that are not negative."""
    return duration(round(seconds * SECOND))


def text(us: int) -> str:
    """A span as people read it: 90 s, 5 min, 2 h, 30 days."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if us >= unit and us % unit == 0:
            return f"{us // unit} {name}"
    return f"{us / SECOND:g} s"
