"""From an exception of task code to the failure that is reported."""

from __future__ import annotations

import json
import re
import resource
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError

from longshore.sdk.failures import CODES, FailureClass, JobCancelled, PermanentError, TaskError
from longshore_cpu_workers.phrases import Trouble, trouble_in
from longshore_cpu_workers.runner.scrubbing import scrub, scrub_fact
from longshore_cpu_workers.wire import UNKNOWN_TASK

MAX_TRACEBACK = 8 * 1024
MAX_MESSAGE = 2 * 1024
MAX_REASON = 128
"""As long as `non_retryable_reasons` of a job may be."""

# What is read of a text before it is scrubbed and cut: a secret that lies across this end is far
# beyond what is kept.
_WINDOW = 64 * 1024
_TRACE_WINDOW = 256 * 1024
_TRACE_LINE = 1024
_MAX_VIOLATIONS = 100
_MAX_FACTS = 32
_OWN_FACTS = ("exception", "exit_code", "memory", "peak_bytes")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Told(NamedTuple):
    """A failure on its way to the worker; the fields are those of wire.Failure."""

    failure_class: int
    code: int
    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()
    violations: tuple[tuple[str, str], ...] = ()
    traceback: str = ""

    def plain(self) -> list[object]:
        """The fields as JSON can carry them, bounded and without secrets, whatever task code
        put into them."""
        number, code, reason, message, metadata, found, trace_text = self
        return [
            int(number),
            int(code),
            clean(scrub(reason[:_WINDOW]))[:MAX_REASON],
            clean(scrub(message[:_WINDOW])),
            [
                (clean(scrub(key[:_WINDOW])), clean(scrub_fact(key, value[:_WINDOW])))
                for key, value in metadata[:_MAX_FACTS]
            ],
            [
                (clean(scrub(path[:_WINDOW])), clean(scrub(what[:_WINDOW])))
                for path, what in found[:_MAX_VIOLATIONS]
            ],
            trace_text,
        ]


def clean(value: object) -> str:
    """Text of bounded length, without what JSON or a database cannot carry.

    That is lone surrogates, and NUL, at which SQLite cuts a text and which Postgres refuses.
    """
    text = str(value)
    text = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
    return _storable(text).decode()


def _storable(text: str) -> bytes:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")


def permanent(code: str, reason: str, message: str, **metadata: str) -> Told:
    """A failure that would repeat itself."""
    return Told(FailureClass.PERMANENT, CODES[code], reason, message, tuple(metadata.items()))


def unknown_task(task: str, known: list[str]) -> Told:
    """No module that this runner loaded has the task."""
    names = ", ".join(sorted(known)[:20]) or "none"
    message = f"this worker has no task {task!r}; it has {names}"
    told = permanent("NOT_FOUND", UNKNOWN_TASK, message, task=task)
    return told._replace(failure_class=FailureClass.PREEMPTED)  # another worker may have it


def invalid_payload(task: str, error: ValidationError) -> Told:
    """The payload does not fit the task."""
    found = violations(error)
    where = "; ".join(f"{path or 'payload'}: {what}" for path, what in found[:3])
    message = f"the payload does not fit task {task!r}: {where}"
    told = permanent("INVALID_ARGUMENT", "INVALID_PAYLOAD", message)
    return told._replace(violations=found)


def violations(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """(path, what is wrong with it); the values themselves are left out."""
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    return tuple((field_path(item["loc"]), item["msg"]) for item in errors[:_MAX_VIOLATIONS])


def field_path(place: Sequence[str | int]) -> str:
    """A path as the server writes it too: renditions[0].height"""
    return "".join(map(_step, place)).removeprefix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _NAME.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def raised(error: BaseException) -> Told:
    """What task code raised. Never raises, whatever the exception is made of."""
    try:
        return _described(error)
    except Exception:  # noqa: BLE001 - a field of the exception is not what it should be
        kind = type(error).__name__
        message = f"{kind}, which cannot be described: its fields are not those of a TaskError"
        facts = (("exception", kind),)
        return Told(FailureClass.TASK_ERROR, CODES["ABORTED"], upper_snake(kind), message, facts)


def _described(error: BaseException) -> Told:
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    said = _said(error)
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    cause = sole_cause(error)
    trouble = trouble_in(text)
    failure_class, code, reason = _classify(cause, trouble)
    facts: dict[str, str] = {"exception": kind}
    violations: tuple[tuple[str, str], ...] = ()
    if isinstance(cause, TaskError):
        facts = {**{str(k): str(v) for k, v in cause.metadata.items()}, **facts}
        violations = tuple((str(path), str(what)) for path, what in cause.violations)
    if isinstance(error, SystemExit):
        facts["exit_code"] = str(_exit_code(error))
    if failure_class is FailureClass.OUT_OF_MEMORY:
        facts["memory"] = _memory(trouble)
        facts["peak_bytes"] = str(_peak())
    message = said if isinstance(error, TaskError) else text
    # Ours first: what is beyond the bound of facts is left out.
    pairs = sorted(facts.items(), key=lambda fact: fact[0] not in _OWN_FACTS)
    return Told(failure_class, code, reason, message, tuple(pairs), violations, trace(error))


def _memory(trouble: Trouble | None) -> str:
    """Which memory ran out: what the next attempt gets more of."""
    return "device" if trouble is Trouble.DEVICE_MEMORY else "host"


def _peak() -> int:
    """The most memory that this process, or one child of it, ever had."""
    of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in of) * 1024


def _said(error: BaseException) -> str:
    try:
        return str(error)[:_WINDOW]
    except Exception:  # noqa: BLE001 - task code's own __str__
        return "(what it says cannot be written out)"


def sole_cause(error: BaseException) -> BaseException:
    """A group of one is what is in it: a TaskGroup wraps the one failure that ended it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _exit_code(error: SystemExit) -> int:
    """As the interpreter would end with it; a text is what it prints before it exits with 1."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _classify(error: BaseException, trouble: Trouble | None) -> tuple[FailureClass, int, str]:
    if isinstance(error, JobCancelled):
        return FailureClass.CANCELLED, CODES["CANCELLED"], "CANCELLED"
    if _is_out_of_memory(error, trouble):
        return FailureClass.OUT_OF_MEMORY, CODES["RESOURCE_EXHAUSTED"], "OUT_OF_MEMORY"
    if trouble is Trouble.DEVICE:
        return FailureClass.DEVICE_FAULT, CODES["UNAVAILABLE"], "DEVICE_FAULT"
    if isinstance(error, PermanentError):
        return FailureClass.PERMANENT, _code(error), str(error.reason)
    if isinstance(error, TaskError):
        return FailureClass.TASK_ERROR, _code(error), str(error.reason)
    if isinstance(error, SystemExit):
        return FailureClass.CRASH, CODES["INTERNAL"], "CRASH"
    return FailureClass.TASK_ERROR, CODES["ABORTED"], upper_snake(type(error).__name__)


def _code(error: TaskError) -> int:
    """Its code; what is no code of a failure, such as 0 or a number of its own, is ABORTED."""
    return error.code if error.code in CODES.values() else CODES["ABORTED"]


def _is_out_of_memory(error: BaseException, trouble: Trouble | None) -> bool:
    """True for what an allocator says, and for what task code says of a child's allocator."""
    if isinstance(error, TaskError) and error.reason == "OUT_OF_MEMORY":
        # Its own word counts: a PermanentError is not tried again with more memory.
        return not isinstance(error, PermanentError)
    return isinstance(error, MemoryError) or trouble is Trouble.DEVICE_MEMORY


def spoils_process(told: Told) -> bool:
    """True where nothing more should run in this process: a device, or its memory, is spoilt."""
    if told.failure_class in (FailureClass.DEVICE_FAULT, FailureClass.OUT_OF_MEMORY):
        return True
    return trouble_in(told.message) in (Trouble.CONTEXT, Trouble.DEVICE, Trouble.DEVICE_MEMORY)


def upper_snake(name: str) -> str:
    """VALUE_ERROR for ValueError, OS_ERROR for OSError, HTTP2_ERROR for HTTP2Error."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return split.upper()


def trace(error: BaseException) -> str:
    """The traceback of task code, without values, without our frames, at most 8 KiB: its end."""
    formatted = traceback.TracebackException.from_exception(error, capture_locals=False)
    _hide_our_frames(formatted)
    text = "".join(formatted.format())
    cut = len(text) > _TRACE_WINDOW
    # Scrubbed before it is cut: half a secret looks like none.
    lines = scrub(text[-_TRACE_WINDOW:]).split("\n")
    data = _storable("\n".join(map(_shortened, lines)))
    if len(data) <= MAX_TRACEBACK and not cut:
        return data.decode()
    return "…\n" + data[-MAX_TRACEBACK + 4 :].decode("utf-8", "ignore")


def _shortened(line: str) -> str:
    """A line of a traceback: a message without end must not push the frames out."""
    return line if len(line) <= _TRACE_LINE else line[: _TRACE_LINE - 1] + "…"


def _hide_our_frames(formatted: traceback.TracebackException) -> None:
    ours = "/longshore_cpu_workers/runner/"
    while formatted.stack and ours in formatted.stack[0].filename:
        del formatted.stack[0]
