"""Large inputs, as tasks look them up."""

from __future__ import annotations

from pathlib import Path

from longshore.sdk import Context, PermanentError


def require_input(ctx: Context, name: str) -> Path:
    """The local file of an input that the task cannot do without.

    Raises:
        PermanentError: INPUT_MISSING, the job has no input of that name.
    """
    found = ctx.inputs.get(name)
    if found is None:
        given = ", ".join(sorted(ctx.inputs)) or "none"
        raise PermanentError(
            f"the job has no input named {name!r} (given: {given}); "
            f"submit it with inputs={{{name!r}: ...}}",
            reason="INPUT_MISSING",
            code="INVALID_ARGUMENT",
            metadata={"input": name},
        )
    return found.path
