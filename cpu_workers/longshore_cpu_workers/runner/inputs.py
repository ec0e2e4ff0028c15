"""Large inputs of an attempt: present, readable and as declared, before its task begins."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from longshore.sdk.context import Input
from longshore.sdk.failures import JobCancelled
from longshore_cpu_workers.runner.failures import Told, permanent

_CHUNK = 1 << 20


class InputRefused(Exception):
    """An input cannot be used; `told` is the failure of the attempt."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.message)
        self.told = told


def open_input(name: str, uri: str, size: int, sha256: str, cancelled: Callable[[], bool]) -> Input:
    """Checks one input and returns it as a local file.

    Raises:
        InputRefused: it is missing, unreadable, or not what was declared.
        JobCancelled: the attempt was told to end while a large file was being hashed.
    """
    path = _local_path(name, uri)
    found = _measure(name, path)
    if size and found != size:
        raise _mismatch(name, f"input {name!r}, {path}, has {found} bytes, not the declared {size}")
    if sha256 and (digest := _digest(path, cancelled)) != sha256.lower():
        raise _mismatch(
            name, f"input {name!r}, {path}, has SHA-256 {digest}, not the declared {sha256}"
        )
    return Input(name, path, size or found, sha256)


def _local_path(name: str, uri: str) -> Path:
    parts = urlsplit(uri)
    if "?" in uri or "#" in uri:
        message = (
            f"input {name!r} is {uri!r}, a URI with a bare '?' or '#', which end its path; if they"
            " are characters of the name, write %3F and %23"
        )
        raise InputRefused(
            permanent("INVALID_ARGUMENT", "INPUT_NOT_SUPPORTED", message, input=name)
        )
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        message = (
            f"input {name!r} is {parts.scheme or 'no'} URI; workers read file:// URIs only. "
            "Put the file where workers can see it and give file:///its/path"
        )
        raise InputRefused(
            permanent("INVALID_ARGUMENT", "INPUT_NOT_SUPPORTED", message, input=name)
        )
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))  # a name need not be UTF-8


def _measure(name: str, path: Path) -> int:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for who writes to it
            raise OSError(errno.EINVAL, "it is not a regular file")
        number = os.open(path, os.O_RDONLY)  # three system calls less than a file object
        try:
            return os.fstat(number).st_size
        finally:
            os.close(number)
    except PermissionError:
        message = f"input {name!r}: this worker may not read {path}; let uid {os.getuid()} read it"
        raise InputRefused(
            permanent("PERMISSION_DENIED", "PERMISSION_DENIED", message, input=name)
        ) from None
    except OSError as error:
        message = (
            f"input {name!r}: {path} cannot be opened on this worker ({error.strerror}); check the "
            "path, and that the folder is mounted on every node of the pool"
        )
        raise InputRefused(permanent("NOT_FOUND", "INPUT_NOT_FOUND", message, input=name)) from None


def _digest(path: Path, cancelled: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if cancelled():
                raise JobCancelled
    return digest.hexdigest()


def _mismatch(name: str, message: str) -> InputRefused:
    advice = f"{message}; submit the job again with what the file is now"
    return InputRefused(permanent("DATA_LOSS", "INPUT_MISMATCH", advice, input=name))
