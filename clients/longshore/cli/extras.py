"""How to install what a command needs beyond the client, from where this one came."""

from __future__ import annotations

import json
from importlib import metadata


def missing(command: str, extra: str, error: ImportError) -> str:
    """One sentence: which command needs more, and what installs it."""
    return f"`{command}` needs more than the client ({error}): {remedy(extra)}"


def remedy(extra: str) -> str:
    """The command that installs an extra: of the same checkout or wheel, else by name."""
    origin = _origin()
    source = f" @ {origin}" if origin else ""
    return f"pip install 'longshore[{extra}]{source}'"


def _origin() -> str:
    """The URL that this installation was made from; empty for one by name."""
    try:
        text = metadata.distribution("longshore").read_text("direct_url.json")
        return str(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return ""
