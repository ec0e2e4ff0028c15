"""What calls about dead letters may say, field by field: pure checks that add to Faults."""

from __future__ import annotations

import math

from google.protobuf.timestamp_pb2 import Timestamp

from longshore.v1 import job_pb2
from longshore.v1.queue_service_pb2 import DeadLetterSelection
from longshore_server.refusals import Faults
from longshore_server.spec_checks import check_text
from longshore_server.times import micros
from longshore_store.redrive_records import DeadLetters

LONGEST_NAME, LONGEST_REASON = 256, 1024
LOWEST_RATE, HIGHEST_RATE = 0.1, 1000
LOWEST_SHARE = 0.001


def read_selection(given: DeadLetterSelection, tenant: str, faults: Faults) -> DeadLetters:
    """The dead letters of a tenant that a request chooses."""
    check_text(given.queue, LONGEST_NAME, "selection.queue", faults)
    check_text(given.task, LONGEST_NAME, "selection.task", faults)
    if given.failure_class not in job_pb2.FailureClass.values():
        text = f"is {given.failure_class}, which this release does not know"
        faults.add("selection.failure_class", text)
    after, before = (
        _time(getattr(given, name), f"selection.{name}", faults) if given.HasField(name) else None
        for name in ("ended_after", "ended_before")
    )
    if after is not None and before is not None and after >= before:
        text = "is not before ended_before, so nothing can be chosen; give an earlier time"
        faults.add("selection.ended_after", text)
    return DeadLetters(
        tenant,
        queue=given.queue or None,
        task=given.task or None,
        failure_class=given.failure_class or None,
        ended_from_us=after,
        ended_before_us=before,
    )


def _time(given: Timestamp, at: str, faults: Faults) -> int | None:
    # From year 1 to the end of 9999, as the documentation of Timestamp says.
    if 0 <= given.nanos < 10**9 and -62_135_596_800 <= given.seconds <= 253_402_300_799:
        return micros(given)
    faults.add(at, f"is seconds={given.seconds} nanos={given.nanos}, which is no time")
    return None


def selection_key(given: DeadLetterSelection) -> str:
    """The same text for the same selection: page tokens are bound to it."""
    return given.SerializeToString(deterministic=True).hex()


def check_reason(reason: str, faults: Faults) -> None:
    """A reason that must be given."""
    if not reason.strip():
        faults.add("reason", f"is empty; say why, in 1 to {LONGEST_REASON} characters")
    check_text(reason, LONGEST_REASON, "reason", faults)


def read_rate(rate: float, faults: Faults, *, required: bool) -> int:
    """Jobs in a thousand seconds."""
    if not required and rate == 0:
        return 0
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:  # a NaN compares false, so it is refused too
        text = f"is {rate:g} jobs per second; give {LOWEST_RATE} to {HIGHEST_RATE}"
        faults.add("rate", text)
        return 0
    return round(rate * 1000)


def read_share(share: float, faults: Faults) -> int:
    """Failures in a thousand redriven; 0 where it never stops."""
    if share != 0 and not LOWEST_SHARE <= share <= 1:
        text = f"is {share:g}; give {LOWEST_SHARE} to 1, or 0 to go on whatever fails"
        faults.add("maximum_failure_share", text)
        return 0
    return math.ceil(share * 1000 - 1e-6)
