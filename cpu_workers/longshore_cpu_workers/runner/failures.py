"""From an exception of task code to the failure that is reported."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError

from longshore.sdk.failures import CODES, FailureClass, JobCancelled, PermanentError, TaskError

MAX_TRACEBACK = 8 * 1024
MAX_MESSAGE = 2 * 1024
_MAX_VIOLATIONS = 100
_MAX_FACTS = 32

# What the libraries that allocate on a device say when they cannot: torch, CUDA itself,
# onnxruntime's arena, cuBLAS and cuDNN, XLA.
_DEVICE_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
    r"|cudaErrorMemoryAllocation|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|Failed to allocate memory for requested buffer of size"
    r"|CUDA failure 2: out of memory|RESOURCE_EXHAUSTED: Out of memory|HIP out of memory",
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEVICE_FAULT = re.compile(r"uncorrectable ECC error|cudaErrorECCUncorrectable|GPU is lost", re.I)
_SECRETS = (
    (re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]*@"), "***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)([\w-]*(?:token|secret|passw(?:or)?d|passwd|api[_-]?key|signature|credential)"
            r"[\w-]*[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&,;)}\]]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), "***"),
)


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
        """The fields as JSON can carry them, whatever task code put into them."""
        number, code, reason, message, metadata, found, trace_text = self
        return [
            int(number),
            int(code),
            clean(reason),
            clean(message),
            [(clean(key), clean(value)) for key, value in metadata[:_MAX_FACTS]],
            [(clean(path), clean(what)) for path, what in found[:_MAX_VIOLATIONS]],
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
    message = f"this worker has no task {task!r}; it has {names}. Add its module to `tasks:`"
    return permanent("NOT_FOUND", "UNKNOWN_TASK", message, task=task)


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
    return tuple((field_path(item["loc"]), scrub(item["msg"])) for item in errors[:_MAX_VIOLATIONS])


def field_path(place: Sequence[str | int]) -> str:
    """A path as the server writes it too: renditions[0].height"""
    return "".join(map(_step, place)).removeprefix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _NAME.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def raised(error: BaseException) -> Told:
    """What task code raised."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = scrub(str(error) if isinstance(error, TaskError) else text)
    told = Told(*_classify(error, text), message, traceback=trace(error))
    if isinstance(error, TaskError):
        facts = tuple((str(k), scrub(str(v))) for k, v in error.metadata.items())
        return told._replace(metadata=facts, violations=error.violations)
    if isinstance(error, SystemExit):
        return told._replace(metadata=(("exit_code", str(error.code)),))
    return told


def _classify(error: BaseException, text: str) -> tuple[FailureClass, int, str]:
    if isinstance(error, JobCancelled):
        return FailureClass.CANCELLED, CODES["CANCELLED"], "CANCELLED"
    if _is_out_of_memory(error, text):
        return FailureClass.OUT_OF_MEMORY, CODES["RESOURCE_EXHAUSTED"], "OUT_OF_MEMORY"
    if _DEVICE_FAULT.search(text):
        return FailureClass.DEVICE_FAULT, CODES["UNAVAILABLE"], "DEVICE_FAULT"
    if isinstance(error, PermanentError):
        return FailureClass.PERMANENT, error.code, error.reason
    if isinstance(error, TaskError):
        return FailureClass.TASK_ERROR, error.code, error.reason
    if isinstance(error, SystemExit):
        return FailureClass.CRASH, CODES["INTERNAL"], "CRASH"
    return FailureClass.TASK_ERROR, CODES["ABORTED"], upper_snake(type(error).__name__)


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    """True for what an allocator says, and for what task code says of a child's allocator."""
    if isinstance(error, TaskError) and error.reason == "OUT_OF_MEMORY":
        # Its own word counts: a PermanentError is not tried again with more memory.
        return not isinstance(error, PermanentError)
    return isinstance(error, MemoryError) or _DEVICE_MEMORY.search(text) is not None


def upper_snake(name: str) -> str:
    """VALUE_ERROR for ValueError, OS_ERROR for OSError, HTTP2_ERROR for HTTP2Error."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return split.upper()


def trace(error: BaseException) -> str:
    """The traceback of task code, without values, without our frames, at most 8 KiB: its end."""
    formatted = traceback.TracebackException.from_exception(error, capture_locals=False)
    _hide_our_frames(formatted)
    text = scrub("".join(formatted.format()))
    data = _storable(text)
    if len(data) <= MAX_TRACEBACK:
        return data.decode()
    return "…\n" + data[-MAX_TRACEBACK + 4 :].decode("utf-8", "ignore")


def _hide_our_frames(formatted: traceback.TracebackException) -> None:
    ours = "/longshore_cpu_workers/runner/"
    while formatted.stack and ours in formatted.stack[0].filename:
        del formatted.stack[0]


def scrub(text: str) -> str:
    """Hides what looks like a secret: credentials in URLs, tokens, keys, passwords."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
