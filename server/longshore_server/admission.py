"""Admission: from a request to a NewJob, or to every reason why not. No store in here.

A spec is taken apart into its form, which many jobs share, and what is the job's own. The bytes
of both, one after the other, are the spec that is stored: protobuf reads them as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import SubmitRequest
from longshore_server.catalogue import Catalogue
from longshore_server.forms import Form, FormCache, Hints, make_form
from longshore_server.ids import IdSource
from longshore_server.refusals import Faults
from longshore_server.spec_checks import check_own, check_request
from longshore_server.times import micros
from longshore_server.unknown import check_known
from longshore_store.model import CallKey, NewJob, OnConflict, UniqueClaim

AT_ONCE = 50
"""Jobs of a batch that are checked before the event loop gets its turn."""

_NO_LABELS: Mapping[str, str] = {}


class Item(NamedTuple):
    """One request, read once: `spec` is its form, `own` what is the job's own, if anything is."""

    request: SubmitRequest
    spec: job_pb2.JobSpec
    key: bytes
    own: job_pb2.JobSpec | None
    own_bytes: bytes
    payload: str


class Admitted(NamedTuple):
    """A job that may be stored, as its answer needs it."""

    form: Form
    own_bytes: bytes
    due_us: int | None


def read_item(request: SubmitRequest) -> Item:
    """Takes a request apart: payload and own parts are moved out of its spec."""
    spec = request.spec
    payload = spec.payload
    if payload:
        spec.ClearField("payload")
    own, own_bytes = _own_parts(spec), b""
    if own is not None:
        own_bytes = own.SerializeToString(deterministic=True)
    return Item(
        request, spec, spec.SerializeToString(deterministic=True), own, own_bytes, payload or "{}"
    )


def _own_parts(spec: job_pb2.JobSpec) -> job_pb2.JobSpec | None:
    inputs, labels, timed = spec.inputs, spec.labels, spec.HasField("schedule_time")
    if not (inputs or labels or timed):
        return None
    own = job_pb2.JobSpec()
    if inputs:
        own.inputs.MergeFrom(inputs)
        spec.ClearField("inputs")
    if labels:
        own.labels.MergeFrom(labels)
        spec.ClearField("labels")
    if timed:
        own.schedule_time.CopyFrom(spec.schedule_time)
        spec.ClearField("schedule_time")
    return own


class Admission:
    """Checks items against a catalogue. Keeps forms until declarations change."""

    def __init__(self) -> None:
        self._forms = FormCache()
        self._new_id = IdSource()

    async def admit(
        self,
        items: Sequence[Item],
        places: Sequence[str],
        catalogue: Catalogue,
        tenant: str,
        now_us: int,
        faults: Faults,
    ) -> tuple[list[NewJob], list[Admitted]]:
        """The jobs as they are to be stored; incomplete where `faults` holds anything.

        places: the prefix of each item's fields, such as "requests[3].".
        """
        jobs: list[NewJob] = []
        admitted: list[Admitted] = []
        hints = Hints()
        for first in range(0, len(items), AT_ONCE):
            if first:
                await asyncio.sleep(0)
            known = self._forms.of(catalogue)
            for n in range(first, min(first + AT_ONCE, len(items))):
                item, at = items[n], places[n]
                form = known.get(item.key)
                if form is None:
                    form = make_form(item.spec, item.key, f"{at}spec", catalogue, hints, faults)
                    if form is not None:
                        self._forms.keep(form)
                one = self._admit(item, at, form, catalogue, now_us, faults)
                if one is not None:
                    jobs.append(self._job(item, one, tenant))
                    admitted.append(one)
        return jobs, admitted

    def _admit(
        self,
        item: Item,
        at: str,
        form: Form | None,
        catalogue: Catalogue,
        now_us: int,
        faults: Faults,
    ) -> Admitted | None:
        """Checks all that is the job's own, also if its form is wrong: all is told at once."""
        request, _, _, own, own_bytes, payload = item
        if request.idempotency_key or request.HasField("uniqueness"):
            check_request(request, at, faults)
        check_known(request, at, faults)
        due_us = None
        if own is not None:
            check_own(own, f"{at}spec", now_us, faults)
            if own.HasField("schedule_time"):
                due_us = micros(own.schedule_time)
        task = None if form is not None else catalogue.tasks.get(item.spec.task)
        schema = form.payload if form is not None else task.payload if task else None
        raw = payload.encode()
        if schema is not None and not schema.accepts(raw):
            schema.check(raw, f"{at}spec.payload", faults)
        if form is None or faults:
            return None
        return Admitted(form, own_bytes, due_us if due_us and due_us > now_us else None)

    def _job(self, item: Item, one: Admitted, tenant: str) -> NewJob:
        form, own_bytes, due_us = one
        request = item.request
        unique, tail = _claim(request)
        return NewJob(
            self._new_id(),
            tenant,
            form.task,
            form.queue,
            form.spec + own_bytes,
            item.payload,
            form.needs_json,
            fingerprint(item, tail),
            request.idempotency_key or None,
            form.priority,
            due_us,
            form.queue_timeout_us,
            form.total_timeout_us,
            dict(item.own.labels) if item.own is not None else _NO_LABELS,
            unique,
        )


def call_key(item: Item, tenant: str) -> CallKey:
    """The key of a call, with what must be equal in a repeat."""
    return CallKey(tenant, item.request.idempotency_key, fingerprint(item, _claim(item.request)[1]))


def fingerprint(item: Item, tail: bytes) -> str:
    """What must be equal for a call to be the repeat of another. The lengths keep parts apart
    whose concatenations are equal."""
    digest = sha256(b"%d %d " % (len(item.key), len(item.own_bytes)))
    digest.update(item.key + item.own_bytes + item.payload.encode() + tail)
    return digest.hexdigest()


def _claim(request: SubmitRequest) -> tuple[UniqueClaim | None, bytes]:
    """The uniqueness claim, and its part of the fingerprint."""
    if not request.HasField("uniqueness"):
        return None, b""
    unique = request.uniqueness
    window = micros(unique.window) if unique.HasField("window") else None
    try:
        conflict = OnConflict(unique.on_conflict or OnConflict.RETURN_EXISTING)
    except ValueError:  # already a fault; the claim is not used
        conflict = OnConflict.RETURN_EXISTING
    raw = unique.SerializeToString(deterministic=True)
    return UniqueClaim(unique.key, window, conflict), b"\0" + raw
