"""What all tests share: how hypothesis searches, that Ctrl-C can be sent to children, and that no
test forks this process."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No deadline: these tests run on small shared machines, where a slow example is not a wrong one.
settings.register_profile("longshore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In a pipeline the same commit gives the same examples; searching for new ones is done at a desk.
settings.register_profile(
    "longshore-ci",
    settings.get_profile("longshore"),
    derandomize=True,
    database=None,
    print_blob=True,
)
settings.load_profile("longshore-ci" if os.environ.get("CI") else "longshore")

# A pipeline may start the tests in the background, where a shell has SIGINT ignored; children would
# inherit that, and the tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

_SLOW_FILES = re.compile(r"test_(ray|cluster_lost|transcode\w*|demo)\.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make quick` leaves out."""
    for item in items:
        wants = getattr(item, "fixturenames", ())
        needs_postgres = "[postgres" in item.name or any("postgres" in name for name in wants)
        if needs_postgres or _SLOW_FILES.fullmatch(item.path.name):
            item.add_marker(pytest.mark.slow)


_forks: list[str] = []


def _note_fork() -> None:
    if "grpc._cython.cygrpc" in sys.modules:
        _forks.append("".join(traceback.format_stack(limit=12)))


# Called by fork(), not by vfork() or posix_spawn(): subprocess uses fork() for a change of user or
# a preexec_fn, and os.register_at_fork does not see that.
_before_fork = ctypes.CFUNCTYPE(None)(_note_fork)
ctypes.CDLL(None).__register_atfork(_before_fork, None, None, None)


@pytest.fixture(autouse=True)
def no_fork() -> Iterator[None]:
    """A process that has run gRPC must not fork: the child may hang, and either may crash."""
    yield
    told = _forks.copy()
    _forks.clear()
    assert not told, f"this process has run gRPC and was forked:\n{told[0]}"
