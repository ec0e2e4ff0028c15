"""Collects what a model gives, batch by batch, and writes it as one file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from longshore.sdk import PermanentError
from longshore_gpu_workers.tasks.inference.params import OutputFacts

Array = np.ndarray[Any, np.dtype[Any]]

MAX_OUTPUT_BYTES = 4 * 2**30
MAX_JSON_VALUES = 5_000_000


class Predictions:
    """Arrays that grow by batches.

    Args:
        names: the outputs kept, in the order in which batches bring them.
        top_k: how many of the last axis to keep; 0 keeps all.
    """

    def __init__(self, names: list[str], top_k: int) -> None:
        self._names = names
        self._top_k = top_k
        self._bytes = 0
        self._parts: dict[str, list[Array]] = {}

    def add(self, arrays: list[Any], rows: int) -> None:
        """Takes one batch, of which the first `rows` rows count: the rest is padding.

        Raises:
            PermanentError: OUTPUT_NOT_BATCHED or OUTPUT_TOO_LARGE.
        """
        for name, array in zip(self._names, arrays, strict=True):
            if getattr(array, "ndim", 0) == 0 or len(array) < rows:
                raise _not_batched(name, array, rows)
            for key, part in self._shaped(name, array[:rows]).items():
                self._bytes += part.nbytes
                self._parts.setdefault(key, []).append(part)
        if self._bytes > MAX_OUTPUT_BYTES:
            raise _too_large(f"more than {MAX_OUTPUT_BYTES} bytes", "set top_k, or split the data")

    def _shaped(self, name: str, array: Array) -> dict[str, Array]:
        if not self._top_k or array.ndim < 2 or array.dtype.kind not in "biuf":
            return {name: array}
        indices, values = _largest(array, self._top_k)
        return {f"{name}_indices": indices, f"{name}_values": values}

    def write(self, path: Path, file_format: str) -> list[OutputFacts]:
        """Writes all of it, beside `path` first, and says what it wrote.

        Raises:
            PermanentError: OUTPUT_NOT_BATCHED, OUTPUT_TOO_LARGE or OUTPUT_NOT_JSON.
        """
        arrays = {name: _joined(name, parts) for name, parts in self._parts.items()}
        partial = path.with_name(f".partial-{path.name}")
        try:
            with partial.open("wb") as file:
                if file_format == "npz":
                    _write_npz(file, arrays)
                else:
                    file.write(_as_json(arrays))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return [
            OutputFacts(name=name, shape=list(array.shape), dtype=_dtype_name(array))
            for name, array in arrays.items()
        ]


def _largest(array: Array, k: int) -> tuple[Array, Array]:
    """Indices and values of the k largest of the last axis, largest first, ties by index."""
    # Sorting the reversed axis keeps ties in order of index once it is turned back.
    order = np.argsort(array[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]
    indices = array.shape[-1] - 1 - order
    return indices, np.take_along_axis(array, indices, axis=-1)


def _joined(name: str, parts: list[Array]) -> Array:
    try:
        array = np.concatenate(parts)
    except ValueError as error:
        raise PermanentError(
            f"the output {name!r} has other shapes in other batches ({error}); choose a "
            "batch_size that takes all rows at once, or leave it out with outputs",
            reason="OUTPUT_NOT_BATCHED",
            code="INVALID_ARGUMENT",
        ) from error
    return array.astype(np.str_) if array.dtype.hasobject else array


def _write_npz(file: Any, arrays: dict[str, Array]) -> None:
    """np.savez takes the arrays as keyword arguments, among which `file` would collide."""
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _as_json(arrays: dict[str, Array]) -> bytes:
    values = sum(array.size for array in arrays.values())
    if values > MAX_JSON_VALUES:
        raise _too_large(f"{values} numbers, above {MAX_JSON_VALUES} for JSON", "ask for npz")
    try:
        lists = {name: array.tolist() for name, array in arrays.items()}
        return json.dumps(lists, allow_nan=False).encode()
    except ValueError as error:
        raise PermanentError(
            "the predictions hold NaN or infinity, which JSON cannot carry; ask for npz",
            reason="OUTPUT_NOT_JSON",
            code="INVALID_ARGUMENT",
        ) from error


def _dtype_name(array: Array) -> str:
    return "str" if array.dtype.kind == "U" else array.dtype.name


def _not_batched(name: str, array: Any, rows: int) -> PermanentError:
    shape = list(getattr(array, "shape", ())) or "no shape"
    return PermanentError(
        f"the output {name!r} has {shape} for a batch of {rows} rows; only outputs with a row "
        "for each input are collected: leave it out with outputs",
        reason="OUTPUT_NOT_BATCHED",
        code="INVALID_ARGUMENT",
    )


def _too_large(what: str, advice: str) -> PermanentError:
    return PermanentError(
        f"the predictions are {what}; {advice}",
        reason="OUTPUT_TOO_LARGE",
        code="INVALID_ARGUMENT",
    )
