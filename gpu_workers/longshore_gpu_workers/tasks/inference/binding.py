"""Fits the data to the inputs a model declares, and says everything that does not fit at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from longshore.sdk import PermanentError

Array = np.ndarray[Any, np.dtype[Any]]

# onnxruntime's names of element types, where numpy's differ.
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}
_NUMERIC = {"float16", "float32", "float64", "bool"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class Declared(NamedTuple):
    """An input of a model. A dimension is a number, or anything else where it is free."""

    name: str
    shape: tuple[Any, ...]
    dtype: str

    def __str__(self) -> str:
        dims = ", ".join(str(dim) if isinstance(dim, int) else "any" for dim in self.shape)
        return f"{self.dtype} [{dims}]"


class Bound(NamedTuple):
    """What runs: an array for each input, all of `rows` rows, in runs of `batch` rows.

    `fixed` says that the model takes exactly `batch` rows, no less.
    """

    arrays: dict[str, Array]
    rows: int
    batch: int
    fixed: bool


def numpy_name(onnx_type: str) -> str:
    """ "tensor(float)" as "float32"; a type that is no plain tensor stays what it is."""
    inner = onnx_type.removeprefix("tensor(").removesuffix(")")
    return _NUMPY_NAMES.get(inner, inner)


def bind(
    declared: list[Declared],
    data: Mapping[str, Any],
    names: Mapping[str, str],
    batch_size: int,
) -> Bound:
    """Fits arrays, or nested lists, to declared inputs.

    Args:
        declared: the inputs of the model.
        data: name to array or nested lists; the first dimension is the rows.
        names: model input to name in data, where they differ.
        batch_size: rows a run, where the model leaves that free.

    Raises:
        PermanentError: INPUT_MISMATCH, with a violation for each input that does not fit.
    """
    violations = _unknown_names(declared, names)
    if not declared:
        violations.append(("data", "the model takes no inputs, so there is nothing to run it over"))
    arrays: dict[str, Array] = {}
    for wanted in declared:
        source = _source_name(wanted, declared, data, names)
        if source not in data:
            have = ", ".join(sorted(data)) or "nothing"
            what = f"the model wants {wanted}; the data has no {source!r}, only {have}"
            violations.append((f"data.{source}", what))
            continue
        try:
            arrays[wanted.name] = _fit(wanted, data[source])
        except ValueError as error:
            violations.append((f"data.{source}", f"the model wants {wanted}; {error}"))
    violations += _uneven(arrays)
    if violations:
        raise _mismatch(violations)
    rows = len(next(iter(arrays.values())))
    fixed = [wanted.shape[0] for wanted in declared if isinstance(wanted.shape[0], int)]
    return Bound(arrays, rows, fixed[0] if fixed else batch_size, bool(fixed))


def _unknown_names(declared: list[Declared], names: Mapping[str, str]) -> list[tuple[str, str]]:
    known = {wanted.name for wanted in declared}
    listed = ", ".join(sorted(known))
    return [
        (f"inputs.{name}", f"the model has no input {name!r}; it has {listed}")
        for name in names
        if name not in known
    ]


def _source_name(
    wanted: Declared,
    declared: list[Declared],
    data: Mapping[str, Any],
    names: Mapping[str, str],
) -> str:
    """The name in the data; where both have one thing only, they belong together."""
    if len(declared) == len(data) == 1 and not names:
        return next(iter(data))
    return names.get(wanted.name, wanted.name)


def _fit(wanted: Declared, value: Any) -> Array:
    array = _from_lists(wanted, value) if isinstance(value, list) else _from_array(wanted, value)
    given = f"the data has {_kind(array)} {list(array.shape)}"
    if array.ndim != len(wanted.shape) or not wanted.shape:
        raise ValueError(given)
    for have, want in zip(array.shape[1:], wanted.shape[1:], strict=True):
        if isinstance(want, int) and have != want:
            raise ValueError(given)
    if len(array) == 0:
        raise ValueError(f"{given}, which has no rows")
    return array


def _from_array(wanted: Declared, array: Array) -> Array:
    """An array as it is: a type that was chosen is not changed behind the caller's back."""
    if _kind(array) != wanted.dtype:
        raise ValueError(
            f"the data has {_kind(array)} {list(array.shape)}; convert it with "
            f"array.astype({wanted.dtype!r})"
        )
    return array.astype(object) if wanted.dtype == "str" else array


def _from_lists(wanted: Declared, rows: list[Any]) -> Array:
    """Nested lists as the declared type; a number that it cannot hold is an error."""
    if wanted.dtype == "str":
        return np.array(rows, dtype=object)
    if wanted.dtype not in _NUMERIC:
        raise ValueError(f"{wanted.dtype} cannot be written in JSON")
    try:
        loose = np.array(rows)
        array = loose.astype(wanted.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the rows are uneven or hold other things than numbers ({error})"
        ) from error
    if loose.dtype.kind not in "biuf":
        raise ValueError("the rows hold other things than numbers")
    if np.dtype(wanted.dtype).kind in "biu" and not np.array_equal(array, loose):
        raise ValueError(f"some numbers are no {wanted.dtype}")
    return array


def _kind(array: Array) -> str:
    return "str" if array.dtype.kind in "UO" else array.dtype.name


def _uneven(arrays: Mapping[str, Array]) -> list[tuple[str, str]]:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) <= 1:
        return []
    listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
    return [("data", f"the inputs have different numbers of rows: {listed}")]


def _mismatch(violations: list[tuple[str, str]]) -> PermanentError:
    listed = "; ".join(f"{field}: {what}" for field, what in violations)
    return PermanentError(
        f"the data does not fit the model: {listed}",
        reason="INPUT_MISMATCH",
        code="INVALID_ARGUMENT",
        metadata={"input": "data"},
        violations=violations,
    )
