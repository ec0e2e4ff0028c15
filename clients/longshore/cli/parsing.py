"""From what people type to values; each function raises typer.BadParameter, with a remedy."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from longshore import units
from longshore.v1 import job_pb2

_LONGEST = 36_500 * 86400.0
_LARGEST = 2**63
_LARGEST_PAYLOAD = 1024**2  # characters; four times what a service takes, and it says so itself


def duration(text: str) -> float:
    """Seconds of "90", "500ms", "10m" or "1h30m"."""
    bare = re.fullmatch(r"\d+(\.\d+)?", text) is not None
    try:
        seconds = float(text) if bare else units.duration(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no duration; write 90, 500ms, 10m or 1h30m"
        ) from None
    if seconds > _LONGEST:
        raise typer.BadParameter(f"{text!r} is longer than {_LONGEST / 86400:.0f}d; give less")
    return seconds


def size(text: str) -> int:
    """Bytes of "1000", "500MB" or "2GiB"."""
    try:
        found = units.size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if found >= _LARGEST:
        raise typer.BadParameter(f"{text!r} is more bytes than can be said; give less")
    return found


def pairs(items: Iterable[str]) -> dict[str, str]:
    """A dict of "name=value" words."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE")
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice; give it once")
        found[name] = value
    return found


def payload(text: str | None) -> str | None:
    """JSON text given as it is, in "@FILE", or at the standard input as "-"."""
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read(_LARGEST_PAYLOAD + 1)
    elif text.startswith("@"):
        text = _read(Path(text[1:]))
    if len(text) > _LARGEST_PAYLOAD:
        raise typer.BadParameter(
            f"the payload has more than {_LARGEST_PAYLOAD:,} characters, which no service takes;"
            " give what is large by --input"
        )
    try:
        json.loads(text)
    except RecursionError:
        raise typer.BadParameter("the payload is nested too deeply; flatten it") from None
    except ValueError as error:
        raise typer.BadParameter(f"the payload is not JSON: {error}") from None
    return text


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_LARGEST_PAYLOAD + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read the payload from {path}: {error}") from None


def moment(text: str | None) -> datetime | None:
    """A time that has passed: "2026-01-31T18:00", local without a zone, or "2h" for so long ago."""
    if text is None:
        return None
    if (time := _local(text)) is not None:
        return time
    try:
        return datetime.now().astimezone() - timedelta(seconds=duration(text))
    except (typer.BadParameter, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-01-31T18:00, or 2h for two hours ago"
        ) from None


def failure_class(name: str | None) -> job_pb2.FailureClass.ValueType | None:
    """The class that a name such as CRASH or task-error stands for."""
    if name is None:
        return None
    known = [n.removeprefix("FAILURE_CLASS_") for n in job_pb2.FailureClass.keys()[1:]]
    word = name.upper().replace("-", "_")
    if word not in known:
        raise typer.BadParameter(f"{name!r} is no failure class; write one of {', '.join(known)}")
    return job_pb2.FailureClass.Value(f"FAILURE_CLASS_{word}")


def schedule(delay: str | None, at: str | None) -> datetime | timedelta | None:
    """When a job is due, from --in and --at; a time without a zone is local."""
    if delay is not None and at is not None:
        raise typer.BadParameter("give --in or --at, not both")
    if delay is not None:
        return timedelta(seconds=duration(delay))
    if at is None:
        return None
    if (time := _local(at)) is not None:
        return time
    raise typer.BadParameter(f"{at!r} is no time; write 2026-01-31T18:00 or 2026-01-31T18:00:00Z")


def _local(text: str) -> datetime | None:
    """A time as it is written, in the zone of this machine if it names none; None if it is no
    time. A local time that comes twice, or never, when clocks change, is refused."""
    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is not None:
            return given.astimezone()
        first, second = (given.replace(fold=fold).astimezone() for fold in (0, 1))
    except (ValueError, OverflowError):
        return None
    if first.utcoffset() == second.utcoffset():
        return first
    why = "comes twice" if first.replace(tzinfo=None) == given else "never comes"
    early, late = sorted(f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for time in (first, second))
    raise typer.BadParameter(
        f"{text!r} {why} here, because clocks change; write which moment is meant, with a zone:"
        f" {early} or {late}"
    )
