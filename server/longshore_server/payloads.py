"""Payloads against the JSON Schema of their task: every violation at once, by path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import jsonschema_rs
import orjson
from jsonschema_rs import ValidationErrorKind

from longshore_server.refusals import Faults

PAYLOAD_BYTES = 256 * 1024
MOST_VIOLATIONS = 64
MOST_LEVELS = 128
"""The reader of payloads in a runner takes 200."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class PayloadSchema:
    """The compiled input schema of a task; compiled once per published document."""

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        # Offline: a $ref to an address must not make the server fetch it.
        self._validator = jsonschema_rs.Draft202012Validator(schema, offline=True)
        self._accepts = self._validator.is_valid

    def accepts(self, raw: bytes) -> bool:
        """True where the UTF-8 JSON text is a valid payload. The hot path: about 1 us."""
        try:
            if len(raw) > PAYLOAD_BYTES:
                return False
            value = orjson.loads(raw)
            return not _is_deep(raw, value) and self._accepts(value)
        except ValueError:  # no JSON, or nested deeper than the validator goes
            return False

    def check(self, raw: bytes, path: str, faults: Faults) -> None:
        """Adds what is wrong with a payload that `accepts` turned down."""
        if len(raw) > PAYLOAD_BYTES:
            text = f"is {len(raw)} bytes; give at most {PAYLOAD_BYTES}, and what is large as inputs"
            faults.add(path, text)
            return
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            faults.add(path, f"is not JSON: {error}")
            return
        if _is_deep(raw, value):
            text = f"is nested deeper than {MOST_LEVELS} levels of arrays and objects; give fewer"
            faults.add(path, text)
            return
        try:
            violations = list(islice(self._validator.iter_errors(value), MOST_VIOLATIONS))
        except ValueError as error:  # what it cannot work on
            faults.add(path, f"cannot be checked: {error}")
            return
        for violation in violations:
            for place, text in _explained(violation):
                faults.add(path + place, text)


def _is_deep(raw: bytes, value: Any) -> bool:
    if raw.count(b"[") + raw.count(b"{") <= MOST_LEVELS:  # nearly always
        return False
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _explained(error: jsonschema_rs.ValidationError) -> Iterator[tuple[str, str]]:
    place, kind = error.instance_path, error.kind
    if isinstance(kind, ValidationErrorKind.Required):
        yield dotted([*place, kind.property]), "is required; give it"
    elif isinstance(kind, ValidationErrorKind.AdditionalProperties):
        for name in kind.unexpected[:MOST_VIOLATIONS]:
            yield dotted([*place, name]), "is not a parameter of the task; remove it"
    else:
        yield dotted(place), error.message


def dotted(place: Sequence[str | int]) -> str:
    """A JSON path as fields are written: .renditions[0].height"""
    return "".join(map(_step, place))


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _NAME.fullmatch(part) else f"[{orjson.dumps(part).decode()}]"
