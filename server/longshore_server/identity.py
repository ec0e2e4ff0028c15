"""Who asks. The one place that decides it."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
"""What grpc hands to every handler; its message types do not matter to ours."""

TENANT = "default"


def tenant_of(context: Context) -> str:  # noqa: ARG001  # who asks will decide it
    """The tenant of a call: in this release everyone is the tenant "default"."""
    return TENANT


def actor_of(context: Context) -> str:
    """Who makes a call, as it is recorded: in this release the tenant, and where it calls from."""
    return f"{tenant_of(context)} at {unquote(context.peer())}"
