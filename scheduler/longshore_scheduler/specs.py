"""What the scheduler reads of a JobSpec, parsed once per distinct spec.

Specs carry no payload, so thousands of jobs share the same bytes; the cache is keyed by them.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from longshore.sdk.resources import Retry, Timeouts
from longshore.v1 import job_pb2
from longshore_cpu_workers.wire import InputRef
from longshore_cpu_workers.wire import Needs as WireNeeds
from longshore_store.needs import parse_needs

_log = logging.getLogger(__name__)
_RETRY = Retry()
_TIMEOUTS = Timeouts()


class RetryPolicy(NamedTuple):
    """How failed attempts are repeated; spans in seconds."""

    maximum_attempts: int = _RETRY.max_attempts
    initial_backoff: float = _RETRY.initial_backoff
    multiplier: float = _RETRY.multiplier
    maximum_backoff: float = _RETRY.max_backoff
    jitter: float = _RETRY.jitter
    non_retryable_reasons: frozenset[str] = frozenset()


class SpecFacts(NamedTuple):
    """Spans in seconds; attempt_timeout None is none."""

    attempt_timeout: float | None
    cancel_grace: float
    inputs: tuple[InputRef, ...]
    retry: RetryPolicy


@lru_cache(maxsize=4096)
def read_spec(spec: bytes) -> SpecFacts:
    """The facts of a serialized longshore.v1.JobSpec; what it leaves unset takes the defaults.

    So does all of one that cannot be read: a single broken row must not stop the others.
    """
    try:
        message = job_pb2.JobSpec.FromString(spec)
    except DecodeError:
        _log.exception("the spec of a job cannot be read; it runs with the defaults")
        message = job_pb2.JobSpec()
    timeouts = message.timeouts
    return SpecFacts(
        attempt_timeout=_seconds(timeouts.attempt) if timeouts.HasField("attempt") else None,
        cancel_grace=_seconds(timeouts.cancel_grace)
        if timeouts.HasField("cancel_grace")
        else _TIMEOUTS.cancel_grace,
        inputs=tuple(
            InputRef(name, ref.uri, ref.size_bytes, ref.sha256.hex())
            for name, ref in sorted(message.inputs.items())
        ),
        retry=_read_retry(message.retry_policy),
    )


@lru_cache(maxsize=4096)
def wire_needs(needs_json: str) -> WireNeeds:
    """The canonical needs in the form that workers take."""
    needs = parse_needs(needs_json)
    return WireNeeds(
        cpu_millis=needs.cpu_millis,
        memory_bytes=needs.memory_bytes,
        gpu_millis=needs.gpu_millis,
        gpu_memory_bytes=needs.gpu_memory_bytes,
        custom=needs.custom,
    )


def _read_retry(policy: job_pb2.RetryPolicy) -> RetryPolicy:
    default = RetryPolicy()
    return RetryPolicy(
        maximum_attempts=policy.maximum_attempts or default.maximum_attempts,
        initial_backoff=_seconds(policy.initial_backoff)
        if policy.HasField("initial_backoff")
        else default.initial_backoff,
        multiplier=policy.backoff_multiplier or default.multiplier,
        maximum_backoff=_seconds(policy.maximum_backoff)
        if policy.HasField("maximum_backoff")
        else default.maximum_backoff,
        jitter=policy.jitter if policy.HasField("jitter") else default.jitter,
        non_retryable_reasons=frozenset(policy.non_retryable_reasons),
    )


def _seconds(duration: object) -> float:
    return duration.seconds + duration.nanos / 1e9  # type: ignore[attr-defined,no-any-return]
