"""Fits the data to the inputs a model declares, and says everything that does not fit at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

    `fixed` says that the model takes exactly `batch` rows, no less. Every run gets the whole of
    what is `shared`.
    """

    arrays: dict[str, Array]
    rows: int
    batch: int
    fixed: bool
    shared: dict[str, Array]


def numpy_name(onnx_type: str) -> str:
    """ "tensor(float)" as "float32"; a type that is no plain tensor stays what it is."""
    if not (onnx_type.startswith("tensor(") and onnx_type.endswith(")")):
        return onnx_type
    inner = onnx_type[len("tensor(") : -1]
    return _NUMPY_NAMES.get(inner, inner)


def bind(
    declared: list[Declared],
    data: Mapping[str, Any],
    names: Mapping[str, str],
    batch_size: int,
    shared: Collection[str] = (),
) -> Bound:
    """Fits arrays, or nested lists, to declared inputs.

    Args:
        declared: the inputs of the model.
        data: name to array or nested lists; the first dimension is the rows.
        names: model input to name in data, where they differ.
        batch_size: rows a run, if the model leaves that free.
        shared: model inputs that have no rows.

    Raises:
        PermanentError: INPUT_MISMATCH, with a violation for each input that does not fit.
    """
    violations = _unknown_names(declared, names, "inputs.")
    violations += _unknown_names(declared, shared, "shared: ")
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
            arrays[wanted.name] = _fit(wanted, data[source], whole=wanted.name in shared)
        except ValueError as error:
            violations.append((f"data.{source}", f"the model wants {wanted}; {error}"))
    batched = [wanted for wanted in declared if wanted.name not in shared]
    violations += _ambiguous(batched)
    common = {name: arrays.pop(name) for name in shared if name in arrays}
    violations += _uneven(arrays)
    if violations:
        raise _mismatch(violations)
    rows = len(next(iter(arrays.values())))
    fixed = [wanted.shape[0] for wanted in batched if isinstance(wanted.shape[0], int)]
    return Bound(arrays, rows, fixed[0] if fixed else batch_size, bool(fixed), common)


def _ambiguous(batched: list[Declared]) -> list[tuple[str, str]]:
    """Inputs of which nobody can say that their first dimension is the rows: by chance the numbers
    may agree, and the results would be of no meaning."""
    if not batched:
        return [("shared", "every input is shared, so there are no rows to run the model over")]
    free = [wanted.name for wanted in batched if not isinstance(next(iter(wanted.shape), 1), int)]
    first = {wanted.shape[0] for wanted in batched if wanted.shape} if not free else set()
    doubtful = [
        w for w in batched if w.shape and isinstance(w.shape[0], int) and w.name not in free
    ]
    if not doubtful or (not free and len(first) == 1):
        return []
    against = f"{free[0]!r} takes any number of rows" if free else "the numbers of rows differ"
    return [
        (
            f"shared: {w.name}",
            f"the model wants {w}, and {against}: if it has no rows, name it here",
        )
        for w in doubtful
    ]


def _unknown_names(
    declared: list[Declared], names: Collection[str], field: str
) -> list[tuple[str, str]]:
    known = {wanted.name for wanted in declared}
    listed = ", ".join(sorted(known))
    return [
        (f"{field}{name}", f"the model has no input {name!r}; it has {listed}")
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


def _fit(wanted: Declared, value: Any, *, whole: bool) -> Array:
    """whole: it is shared, so its first dimension is one like the others."""
    is_array = isinstance(value, np.ndarray)
    array = _from_array(wanted, value) if is_array else _from_json(wanted, value)
    given = f"the data has {_kind(array)} {list(array.shape)}"
    if not wanted.shape and not whole:
        raise ValueError(f"{given}; a single value has no rows: name it in `shared`")
    if array.ndim != len(wanted.shape):
        raise ValueError(given)
    first = 0 if whole else 1
    for have, want in zip(array.shape[first:], wanted.shape[first:], strict=True):
        if isinstance(want, int) and have != want:
            raise ValueError(given)
    if not whole and len(array) == 0:
        raise ValueError(f"{given}, which has no rows")
    return array


def _from_array(wanted: Declared, array: Array) -> Array:
    """An array as it is: a type that was chosen is not changed behind the caller's back. The order
    of its bytes is: the runtime takes the machine's own for granted."""
    if wanted.dtype not in _NUMERIC and wanted.dtype != "str":
        raise ValueError("no array holds that, so such a model is not served")
    if _kind(array) != wanted.dtype:
        raise ValueError(
            f"the data has {_kind(array)} {list(array.shape)}; convert it with "
            f"array.astype({wanted.dtype!r})"
        )
    if wanted.dtype == "str":
        return array.astype(object)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_json(wanted: Declared, rows: Any) -> Array:
    """Nested lists, or one value, as the declared type; it must be able to hold every number."""
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
