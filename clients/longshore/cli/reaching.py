"""Says at once that nobody listens, where gRPC would try until the call's time is up."""

from __future__ import annotations

import asyncio
import socket

from longshore.errors import Unavailable
from longshore.targets import full_target, host_and_port, proxy_variable

_PATIENCE = 3.0


async def reach(target: str) -> None:
    """Connects once and hangs up.

    An address that answers neither yes nor no is left to the call, as is what a proxy or a
    scheme of gRPC stands before.

    Raises:
        Unavailable: nobody listens there, or the name is unknown.
        ValueError: the target is none.
    """
    full = full_target(target)
    place = host_and_port(full)
    if place is None or proxy_variable(full):
        return
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(*place), _PATIENCE)
    except TimeoutError:
        return
    except OSError as error:
        why = "its name is unknown" if isinstance(error, socket.gaierror) else "nobody listens"
        raise Unavailable(
            f"no Longshore server answers at {place[0]}:{place[1]} ({why} there): start one with"
            " `longshore up`, or correct --target or LONGSHORE_TARGET; --timeout waits for one",
            code="UNAVAILABLE",
        ) from None
    writer.close()
