"""Ports that stay free for whoever they are meant for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from longshore_embedded import dev_cluster


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback where nobody listens, but who is told its number may."""
    with dev_cluster.reserved_port() as holder:
        yield holder.getsockname()[1]
