"""`python -m longshore_cpu_workers.runner FD FAULTS PARENT FOLDERS... BOUNDS... [MODULE...]`."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies, even if it just did."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    fd, faults, parent, artifacts, scratch, attempts, memory, *modules = sys.argv[1:]
    _die_with(int(parent))  # before the slow imports
    os.set_inheritable(int(fd), False)
    os.set_inheritable(int(faults), False)
    faulthandler.enable(int(faults))
    from longshore_cpu_workers.reaping import adopt_orphans
    from longshore_cpu_workers.runner.process import main
    from longshore_cpu_workers.runner.wear import Bounds

    adopt_orphans()
    sys.argv = sys.argv[:1]
    main(int(fd), artifacts, scratch, Bounds(int(attempts), int(memory)), modules)
