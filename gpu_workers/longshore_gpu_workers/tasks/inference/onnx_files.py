"""Reads an ONNX file, and refuses one whose weights lie in other files.

ONNX lets a tensor name a file, an offset or, inside onnxruntime, an address in memory. Nothing
but the one file was given to the job, so any such reference is refused before the runtime sees
it. The check walks the protobuf wire format with the few field numbers below (onnx.proto3 of
ONNX 1.x); the runtime does not bring a parser, and the onnx package is no dependency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from longshore.sdk import PermanentError

# protobuf's own limit for one message; a larger model needs external data, which is refused.
MAX_MODEL_BYTES = 2**31 - 1
MAX_FIELDS = 4_000_000
"""Fields of all messages that are looked at, some 3 s of work. Weights are one field a tensor; only
a file that was written to be slow has this many."""

_GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING, _MODEL = range(8)
# message -> field number -> message of that field; fields that hold no tensor are passed over.
_FIELDS: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ModelFile(NamedTuple):
    """The bytes of a model, and their SHA-256 in hex."""

    content: bytes
    sha256: str


def read_model(path: Path) -> ModelFile:
    """Reads a model that is whole in one file.

    Raises:
        PermanentError: NOT_A_MODEL: too large, not protobuf, or with data in other files.
    """
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise not_a_model(f"it has {size} bytes; one file holds at most {MAX_MODEL_BYTES}")
    if size == 0:
        raise not_a_model("the file is empty")
    content = path.read_bytes()
    _refuse_external_data(memoryview(content))
    return ModelFile(content, hashlib.sha256(content).hexdigest())


def not_a_model(why: str) -> PermanentError:
    """NOT_A_MODEL, as one sentence."""
    return PermanentError(
        f"the input 'model' is not an ONNX model that can be run: {why}",
        reason="NOT_A_MODEL",
        code="INVALID_ARGUMENT",
        metadata={"input": "model"},
    )


def _refuse_external_data(content: memoryview) -> None:
    """Walks every message that can hold a tensor; a stack, for graphs nest without a limit."""
    pending, seen = [(_MODEL, content)], 0
    while pending:
        kind, message = pending.pop()
        for number, value in _fields(message):
            seen += 1
            if seen > MAX_FIELDS:
                raise not_a_model(f"it has more than {MAX_FIELDS} fields; save it with packed data")
            if kind == _TENSOR:
                _check_tensor_field(number, value)
            elif (inner := _FIELDS[kind].get(number)) is not None:
                if not isinstance(value, memoryview):
                    raise not_a_model("it is damaged (a message was expected)")
                pending.append((inner, value))


def _check_tensor_field(number: int, value: int | memoryview) -> None:
    external = number == _TENSOR_DATA_LOCATION and value != 0
    if external or number == _TENSOR_EXTERNAL_DATA:
        raise not_a_model(
            "it keeps weights outside the file (external data); save it as one file, with "
            "onnx.save_model(model, path, save_as_external_data=False)"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: number, and value (0 for fixed ones, which nothing asks for)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | memoryview = 0
        match tag & 7:
            case wire if wire == _VARINT:
                value, at = _varint(message, at)
            case wire if wire == _BYTES:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case wire if wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            case _:
                raise not_a_model("it is no protobuf message, or damaged")
        if at > len(message):
            raise not_a_model("it is cut off or damaged")
        yield tag >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise not_a_model("it is cut off or damaged")
