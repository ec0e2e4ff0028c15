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
            return len(raw) <= PAYLOAD_BYTES and self._accepts(orjson.loads(raw))
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
        try:
            violations = list(islice(self._validator.iter_errors(value), MOST_VIOLATIONS))
        except ValueError:  # its word for too much recursion
            faults.add(path, "is nested too deeply; give fewer levels of arrays and objects")
            return
        for violation in violations:
            for place, text in _explained(violation):
                faults.add(path + place, text)


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
