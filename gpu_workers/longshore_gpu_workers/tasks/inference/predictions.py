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

    def add(self, arrays: list[Any], rows: int, fed: int) -> None:
        """Takes one batch of `fed` rows, of which the first `rows` count: the rest is padding.

        An output of any other length has no row for each input: to cut it would lose results.

        Raises:
            PermanentError: OUTPUT_NOT_BATCHED or OUTPUT_TOO_LARGE.
        """
        for name, array in zip(self._names, arrays, strict=True):
            if getattr(array, "ndim", 0) == 0 or len(array) != fed:
                raise _not_batched(name, array, fed)
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
            PermanentError: OUTPUT_NOT_BATCHED, OUTPUT_TOO_LARGE, OUTPUT_NOT_JSON or OUTPUT_NOT_NPZ.
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
    """Indices and values of the k largest of the last axis, largest first, ties by index. NaN is
    smaller than every number."""
    ranked = np.where(np.isnan(array), -np.inf, array) if array.dtype.kind == "f" else array
    # Sorting the reversed axis keeps ties in order of index once it is turned back.
    order = np.argsort(ranked[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]
    indices = array.shape[-1] - 1 - order
    return indices, np.take_along_axis(array, indices, axis=-1)


def _joined(name: str, parts: list[Array]) -> Array:
    try:
        return np.concatenate(parts)
    except ValueError as error:
        raise PermanentError(
            f"the output {name!r} has other shapes in other batches ({error}); choose a "
            "batch_size that takes all rows at once, or leave it out with outputs",
            reason="OUTPUT_NOT_BATCHED",
            code="INVALID_ARGUMENT",
        ) from error


def _write_npz(file: Any, arrays: dict[str, Array]) -> None:
    """np.savez takes the arrays as keyword arguments, among which `file` would collide."""
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                plain = _fixed_width(name, array) if array.dtype.hasobject else array
                np.lib.format.write_array(member, plain, allow_pickle=False)


def _fixed_width(name: str, texts: Array) -> Array:
    """Texts as numpy keeps them in a file: there, a NUL at the end is no part of a text."""
    if any(text.endswith("\0") for text in texts.flat):
        raise PermanentError(
            f"the output {name!r} holds texts that end with NUL, which npz cannot carry; ask for"
            " json",
            reason="OUTPUT_NOT_NPZ",
            code="INVALID_ARGUMENT",
        )
    return texts.astype(np.str_)


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
    return "str" if array.dtype.hasobject else array.dtype.name


def _not_batched(name: str, array: Any, fed: int) -> PermanentError:
    shape = list(getattr(array, "shape", ())) or "no shape"
    return PermanentError(
        f"the output {name!r} has {shape} for a batch of {fed} rows; only outputs with one row "
        "for each input are collected: name the others in `outputs`, or give the model an output "
        "that has one",
        reason="OUTPUT_NOT_BATCHED",
        code="INVALID_ARGUMENT",
    )


def _too_large(what: str, advice: str) -> PermanentError:
    return PermanentError(
        f"the predictions are {what}; {advice}",
        reason="OUTPUT_TOO_LARGE",
        code="INVALID_ARGUMENT",
    )
