"""A bound on the memory of this process that the kernel keeps: allocations beyond it fail."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

_PAGE = resource.getpagesize()


@contextlib.contextmanager
def limited(memory: int) -> Iterator[None]:
    """Lets this process, and each of its children, have so many bytes more."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    data = int(Path("/proc/self/statm").read_bytes().split()[5]) * _PAGE
    hard = before[1]
    bound = data + memory if hard == resource.RLIM_INFINITY else min(data + memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):  # task code has changed the hard one
            resource.setrlimit(resource.RLIMIT_DATA, before)
