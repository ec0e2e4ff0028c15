"""Idempotency keys of calls that are no Submit: Retry and Redrive."""

from __future__ import annotations

from hashlib import sha256

from longshore_server.refusals import Faults, Refusal, key_reused
from longshore_server.spec_checks import check_text
from longshore_store.model import CallKey, IdempotencyConflict


def read_key(given: str, tenant: str, method: str, *asked: str) -> CallKey | None:
    """The key of a call, with a fingerprint of what it asks for; None if it has none.

    Raises:
        Refusal: the key is too long, or holds a NUL.
    """
    if not given:
        return None
    faults = Faults()
    check_text(given, 256, "idempotency_key", faults)
    faults.check()
    digest = sha256()
    for part in (method, *asked):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return CallKey(tenant, given, digest.hexdigest())


def key_taken(conflict: IdempotencyConflict, kind: str) -> Refusal:
    """The key belongs to a call that asked for something else."""
    text = (
        f"idempotency_key {conflict.key!r} belongs to another call, of which {conflict.existing_id}"
        " is the answer: give a new key, or send the same request"
    )
    return key_reused(kind, conflict.existing_id, text)
