"""Forms: what jobs of one kind have in common, checked and merged with its defaults once.

A form is a spec without what is a job's own: payload, inputs, labels, schedule_time. Jobs that
differ in those alone share it: one more costs a look-up, and the check of its own parts.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, pairwise

from longshore.v1 import job_pb2
from longshore_server.capacity import fitting, shortfalls
from longshore_server.catalogue import Catalogue
from longshore_server.payloads import PayloadSchema
from longshore_server.refusals import QUEUE, TASK, Faults, cut
from longshore_server.spec_checks import check_form
from longshore_server.tasks import TaskEntry, with_defaults
from longshore_server.times import micros
from longshore_store.needs import needs_json, parse_needs

MOST_BYTES = 8 * 1024 * 1024
LARGEST_FORM = 64 * 1024
OVERHEAD = 2048
"""Bytes that a form takes beside its texts; about."""

MOST_HINTS = 3
MOST_NAMES = 2000
CANDIDATES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """Everything of accepted specs that is not a job's own. Never changed.

    spec: serialized, with every default. key: what the callers sent, serialized.
    """

    spec: bytes
    key: bytes
    task: str
    queue: str
    needs_json: str
    priority: int
    queue_timeout_us: int | None
    total_timeout_us: int | None
    payload: PayloadSchema

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return OVERHEAD + len(self.spec) + len(self.key) + len(self.needs_json)


class FormCache:
    """The forms of one catalogue, by what callers sent; bounded in bytes, the oldest goes first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._forms: dict[bytes, Form] = {}
        self._version = -1
        self.bytes = 0

    def of(self, catalogue: Catalogue) -> Mapping[bytes, Form]:
        """The forms that are known; none are once a declaration has changed."""
        if catalogue.version != self._version:
            self._forms, self.bytes = {}, 0
            self._version = catalogue.version
        return self._forms

    def keep(self, form: Form) -> None:
        """Remembers a form of the catalogue that `of` was called with last."""
        if form.size > LARGEST_FORM:
            return
        self._forms[form.key] = form
        self.bytes += form.size
        while self.bytes > self._most_bytes:
            self.bytes -= self._forms.pop(next(iter(self._forms))).size


class Hints:
    """What may have been meant by names that do not exist. Bounded: a batch may hold 1,000 of
    them against thousands of known ones, and comparing texts takes its time."""

    def __init__(self) -> None:
        self._left = MOST_HINTS
        self._found: dict[tuple[str, str], str] = {}

    def unknown(self, noun: str, name: str, known: Mapping[str, object]) -> str:
        """The sentence of a refusal."""
        if (noun, name) in self._found:
            return self._found[noun, name]
        text = f"there is no {noun} {cut(name, 64)!r}"
        if self._left == 0:
            return text
        self._left -= 1
        near = _near(name[:64], known)
        shown = near or sorted(islice(known, MOST_NAMES))[:5]
        lead = "did you mean" if near else "known are"
        hint = f"{lead} {', '.join(map(repr, shown))}" if shown else f"no {noun} is registered yet"
        self._found[noun, name] = f"{text}; {hint}"
        return self._found[noun, name]


def _near(name: str, known: Mapping[str, object]) -> list[str]:
    """The closest names: a cheap look at all, then a close one at a few."""
    pairs = set(pairwise(name))

    def shared(other: str) -> float:
        theirs = set(pairwise(other))
        return len(pairs & theirs) / (len(pairs | theirs) or 1)

    few = heapq.nlargest(CANDIDATES, islice(known, MOST_NAMES), key=shared)
    return difflib.get_close_matches(name, few, n=3)


def make_form(
    spec: job_pb2.JobSpec, key: bytes, at: str, catalogue: Catalogue, hints: Hints, faults: Faults
) -> Form | None:
    """The form of a spec without own parts, or None where `faults` got something.

    at: the path of the spec, such as "requests[3].spec".
    """
    own = Faults()
    form = _form(spec, key, at, catalogue, hints, own)
    faults.merge(own)
    return form


def _form(
    spec: job_pb2.JobSpec, key: bytes, at: str, catalogue: Catalogue, hints: Hints, faults: Faults
) -> Form | None:
    check_form(spec, at, faults)
    task = _task(spec.task, f"{at}.task", catalogue, hints, faults)
    queue = spec.queue or (task.queue if task else "")
    if queue and queue not in catalogue.queues:
        text = hints.unknown("queue", queue, catalogue.queues)
        faults.missing(f"{at}.queue", QUEUE, queue, text)
    if faults or task is None:
        return None
    merged = with_defaults(spec, task, catalogue.queues[queue])
    needs = _needs(merged.resources)
    _check_capacity(needs, f"{at}.resources", catalogue, faults)
    if faults:
        return None
    timeouts = merged.timeouts
    return Form(
        spec=merged.SerializeToString(deterministic=True),
        key=key,
        task=merged.task,
        queue=merged.queue,
        needs_json=needs,
        priority=merged.priority,
        queue_timeout_us=micros(timeouts.queue) if timeouts.HasField("queue") else None,
        total_timeout_us=micros(timeouts.total) if timeouts.HasField("total") else None,
        payload=task.payload,
    )


def _task(
    name: str, at: str, catalogue: Catalogue, hints: Hints, faults: Faults
) -> TaskEntry | None:
    task = catalogue.tasks.get(name)
    if not name:
        faults.add(at, "is empty; name a registered task")
    elif task is None:
        faults.missing(at, TASK, name, hints.unknown("task", name, catalogue.tasks))
    return task


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
    if needs.gpu_memory_bytes and not needs.gpu_millis:
        said = f"is {needs.gpu_memory_bytes} and gpu_millis is 0: ask for a GPU too, or a share"
        faults.add(f"{at}.gpu_memory_bytes", said)
    if catalogue.offers and not fitting(needs, catalogue.offers):
        for resource, sentence in shortfalls(needs, catalogue.offers):
            faults.impossible(f"{at}.{resource}", sentence)
