"""Tasks that show whether the service works."""

from __future__ import annotations

from pydantic import JsonValue

from longshore.sdk import Context, Resources, task


@task(resources=Resources(cpu=0.1), max_attempts=4)
def echo(ctx: Context, payload: JsonValue) -> JsonValue:
    """Returns its payload unchanged: any JSON value."""
    del ctx
    return payload
