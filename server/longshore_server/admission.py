"""Admission: from a request to a NewJob, or to every reason why not. No store in here.

The hot path serves jobs whose spec, its payload aside, was seen before: such a spec is checked
and merged with its defaults once, and afterwards costs a look-up, a payload check and a hash.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import SubmitRequest
from longshore_server.capacity import fitting, shortfalls
from longshore_server.catalogue import Catalogue
from longshore_server.ids import IdSource
from longshore_server.payloads import PayloadSchema
from longshore_server.refusals import QUEUE, TASK, Faults, cut
from longshore_server.spec_checks import check_request, check_spec
from longshore_server.tasks import TaskEntry, with_defaults
from longshore_server.times import micros
from longshore_store.model import NewJob, OnConflict, UniqueClaim
from longshore_store.needs import needs_json, parse_needs

MOST_PREPARED = 1024


class Item(NamedTuple):
    """One request, read once: its spec without payload, the bytes of that, and the payload."""

    request: SubmitRequest
    spec: job_pb2.JobSpec
    key: bytes
    payload: str


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Everything of an accepted spec that does not depend on its payload. Never changed."""

    message: job_pb2.JobSpec
    spec: bytes
    task: str
    queue: str
    needs_json: str
    priority: int
    due_us: int | None
    queue_timeout_us: int | None
    total_timeout_us: int | None
    labels: Mapping[str, str]
    payload: PayloadSchema
    prefix: bytes


def read_items(requests: Sequence[SubmitRequest]) -> list[Item]:
    """Takes the requests apart. Their payloads are moved out of them."""
    items = []
    for request in requests:
        spec = request.spec
        payload = spec.payload
        if payload:
            spec.ClearField("payload")
        key = spec.SerializeToString(deterministic=True)
        items.append(Item(request, spec, key, payload or "{}"))
    return items


class Admission:
    """Checks items against a catalogue. Keeps what it prepared until declarations change."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, Prepared] = {}
        self._version = -1
        self._new_id = IdSource()

    def admit(
        self,
        items: Sequence[Item],
        places: Sequence[str],
        catalogue: Catalogue,
        tenant: str,
        now_us: int,
        faults: Faults,
    ) -> tuple[list[NewJob], list[Prepared]]:
        """The jobs as they are to be stored; incomplete where `faults` holds anything.

        places: the prefix of each item's fields, such as "requests[3].".
        """
        if catalogue.version != self._version:
            self._prepared.clear()
            self._version = catalogue.version
        jobs: list[NewJob] = []
        kept: list[Prepared] = []
        cached = self._prepared
        new_id = self._new_id
        for item, at in zip(items, places, strict=True):
            request, _, key, payload = item
            prepared = cached.get(key) or self._prepare(item, at, catalogue, now_us, faults)
            raw = payload.encode()
            if prepared is None:
                self._check_payload_alone(item, raw, at, catalogue, faults)
                continue
            if not prepared.payload.accepts(raw):
                prepared.payload.check(raw, f"{at}spec.payload", faults)
            idempotency_key: str | None = request.idempotency_key
            unique, tail = None, b""
            if idempotency_key or request.HasField("uniqueness"):
                check_request(request, at, faults)
                unique, tail = _claim(request)
            else:
                idempotency_key = None
            jobs.append(
                NewJob(
                    new_id(),
                    tenant,
                    prepared.task,
                    prepared.queue,
                    prepared.spec,
                    payload,
                    prepared.needs_json,
                    sha256(prepared.prefix + raw + tail).hexdigest(),
                    idempotency_key or None,
                    prepared.priority,
                    prepared.due_us,
                    prepared.queue_timeout_us,
                    prepared.total_timeout_us,
                    prepared.labels,
                    unique,
                )
            )
            kept.append(prepared)
        return jobs, kept

    def _check_payload_alone(
        self, item: Item, raw: bytes, at: str, catalogue: Catalogue, faults: Faults
    ) -> None:
        """What else is wrong with an item whose spec is: all of it is told at once."""
        check_request(item.request, at, faults)
        task = catalogue.tasks.get(item.spec.task)
        if task is not None and not task.payload.accepts(raw):
            task.payload.check(raw, f"{at}spec.payload", faults)

    def _prepare(
        self, item: Item, at: str, catalogue: Catalogue, now_us: int, faults: Faults
    ) -> Prepared | None:
        own = Faults()
        prepared = _prepared(item, f"{at}spec", catalogue, now_us, own)
        faults.merge(own)
        # What a schedule_time means depends on the clock: such a spec is prepared each time.
        if prepared is not None and not item.spec.HasField("schedule_time"):
            self._remember(item.key, prepared)
        return prepared

    def _remember(self, key: bytes, prepared: Prepared) -> None:
        if len(self._prepared) >= MOST_PREPARED:
            self._prepared.pop(next(iter(self._prepared)))
        self._prepared[key] = prepared


def _prepared(
    item: Item, at: str, catalogue: Catalogue, now_us: int, faults: Faults
) -> Prepared | None:
    spec = item.spec
    check_spec(spec, at, now_us, faults)
    task = _task(spec.task, f"{at}.task", catalogue, faults)
    queue = spec.queue or (task.queue if task else "")
    if queue and queue not in catalogue.queues:
        faults.missing(f"{at}.queue", QUEUE, queue, _unknown("queue", queue, catalogue.queues))
    if faults or task is None:
        return None
    merged = with_defaults(spec, task, catalogue.queues[queue])
    needs = _needs(merged.resources)
    _check_capacity(needs, f"{at}.resources", catalogue, faults)
    return None if faults else _of(item, merged, needs, task, now_us)


def _of(item: Item, merged: job_pb2.JobSpec, needs: str, task: TaskEntry, now_us: int) -> Prepared:
    due = micros(merged.schedule_time) if merged.HasField("schedule_time") else 0
    timeouts = merged.timeouts
    return Prepared(
        message=merged,
        spec=merged.SerializeToString(deterministic=True),
        task=merged.task,
        queue=merged.queue,
        needs_json=needs,
        priority=merged.priority,
        due_us=due if due > now_us else None,
        queue_timeout_us=micros(timeouts.queue) if timeouts.HasField("queue") else None,
        total_timeout_us=micros(timeouts.total) if timeouts.HasField("total") else None,
        labels=dict(merged.labels),
        payload=task.payload,
        # The length keeps (spec, payload) pairs apart whose concatenations are equal.
        prefix=len(item.key).to_bytes(4, "big") + item.key,
    )


def _task(name: str, at: str, catalogue: Catalogue, faults: Faults) -> TaskEntry | None:
    task = catalogue.tasks.get(name)
    if not name:
        faults.add(at, "is empty; name a registered task")
    elif task is None:
        faults.missing(at, TASK, name, _unknown("task", name, catalogue.tasks))
    return task


def _unknown(noun: str, name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name[:128], known, n=3)
    shown = near or sorted(known)[:5]
    lead = "did you mean" if near else "known are"
    hint = f"{lead} {', '.join(map(repr, shown))}" if shown else f"no {noun} is registered yet"
    return f"there is no {noun} {cut(name, 64)!r}; {hint}"


def _needs(resources: job_pb2.Resources) -> str:
    return needs_json(
        cpu_millis=resources.cpu_millis,
        memory_bytes=resources.memory_bytes,
        gpu_millis=resources.gpu_millis,
        gpu_memory_bytes=resources.gpu_memory_bytes,
        accelerators=list(resources.accelerator_types),
        model=resources.model,
        custom=dict(resources.custom),
    )


def _check_capacity(text: str, at: str, catalogue: Catalogue, faults: Faults) -> None:
    """No pool at all means that none is declared yet: such a job may wait."""
    needs = parse_needs(text)
    if catalogue.offers and not fitting(needs, catalogue.offers):
        for resource, sentence in shortfalls(needs, catalogue.offers):
            faults.impossible(f"{at}.{resource}", sentence)


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
