"""`tether.py PARENT USER COMMAND...`: runs a command that the kernel ends with its parent.

What starts many processes may be killed itself; none of them must be left behind. USER is empty,
or whom a command that refuses to be root becomes first.
"""

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Becomes the command; ends where it cannot."""
    parent, user, *command = sys.argv[1:]
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    # After the change of user, which undoes it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(1)  # it ended before it could be asked for
    try:
        os.execvp(command[0], command)  # noqa: S606  # a list of arguments, no shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


main()
