"""Reads the inputs of a model, from npz or JSON, with every size known before it is allocated."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from longshore.sdk import PermanentError

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

MAX_DATA_BYTES = 4 * 2**30
MAX_JSON_BYTES = 64 * 2**20
MAX_ARRAYS = 64


def read_data(path: Path) -> Arrays | dict[str, Any]:
    """Reads a file of inputs: npz by its first bytes, JSON otherwise.

    Returns:
        Name to array; nested lists instead where the file was JSON, whose numbers have no
        type yet.

    Raises:
        PermanentError: NOT_DATA: neither of both, too large, or with pickled objects.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    return _read_npz(path) if zipped else _read_json(path)


def not_data(why: str) -> PermanentError:
    """NOT_DATA, as one sentence."""
    return PermanentError(
        f"the input 'data' holds no inputs for a model: {why}",
        reason="NOT_DATA",
        code="INVALID_ARGUMENT",
        metadata={"input": "data"},
    )


def _read_npz(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise not_data(
            f"the npz file cannot be read ({error}); write it with numpy.savez"
        ) from error


def _check_members(archive: zipfile.ZipFile) -> None:
    """Compares what each header promises with what there is: numpy allocates by the promise."""
    members = archive.infolist()
    if len(members) > MAX_ARRAYS:
        raise not_data(f"it has {len(members)} arrays, above {MAX_ARRAYS}")
    total = sum(member.file_size for member in members)
    if total > MAX_DATA_BYTES:
        raise not_data(f"it unpacks to {total} bytes, above {MAX_DATA_BYTES}; split it")
    for member in members:
        with archive.open(member) as file:
            _check_header(member.filename.removesuffix(".npy"), file, member.file_size)


def _check_header(name: str, file: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise not_data(f"the array {name!r} holds pickled objects; save numbers or strings")
    if math.prod(shape) * dtype.itemsize + file.tell() != size:
        raise not_data(f"the array {name!r} of shape {shape} does not fill its {size} bytes")


def _read_json(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise not_data(f"the JSON file has {size} bytes, above {MAX_JSON_BYTES}; use npz")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise not_data(f"it is neither npz nor JSON ({error})") from error
    held = (list, bool, int, float, str)  # a single value is one that all rows share
    if not isinstance(value, dict) or not all(isinstance(rows, held) for rows in value.values()):
        raise not_data('the JSON is no object of lists; write {"name": [row, row, ...]}')
    return value
