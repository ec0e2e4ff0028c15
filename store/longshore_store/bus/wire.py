"""The messages of the bus as bytes: JSON arrays, read with suspicion.

[version, sender, kind, body]

wake   [job id, ...]           commits changed these jobs
watch  {job id: cursor, ...}   the sender follows these jobs from there on
ask    null                    who follows what? the sender has just come
news   [changes, ...]          read after a commit, see JobChanges
doubt  [job id, ...]           these jobs have changed; read the store
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from longshore_store.model import EventKind, EventRecord, JobChanges
from longshore_store.states import JobState

VERSION = 1
LONGEST = 1024 * 1024
"""Bytes of a message. What is longer is not sent, and not read where another one sends it."""

_LONGEST_ID = 128
_LARGEST = 2**62
_LATEST_US = 253_402_300_800 * 1_000_000  # the year 10,000, where timestamps end


class Malformed(ValueError):
    """A message that makes no sense."""


class Wake(NamedTuple):
    """See the list above; so do those below."""

    job_ids: list[str]


class Watch(NamedTuple):
    """Jobs and cursors."""

    cursors: dict[str, int]


class Ask(NamedTuple):
    """Without a body."""


class News(NamedTuple):
    """Changes of jobs."""

    changes: list[JobChanges]


class Doubt(NamedTuple):
    """Jobs to be read again."""

    job_ids: list[str]


Message = Wake | Watch | Ask | News | Doubt


class Channels(NamedTuple):
    """Where which messages go: scheduler, everybody, servers."""

    wakes: str
    watches: str
    news: str

    @classmethod
    def of(cls, cluster: str) -> Channels:
        """Those of one deployment; others on the same Redis have other ones."""
        return cls(*(f"longshore:{cluster}:{name}" for name in cls._fields))


class Encoder:
    """Writes the messages of one sender.

    sender: hexadecimal digits, unlike those of any other process.
    """

    def __init__(self, sender: str) -> None:
        self._start = f'[{VERSION},"{sender}",'.encode()

    def is_own(self, raw: bytes) -> bool:
        """True where this sender wrote it."""
        return raw.startswith(self._start)

    def wake(self, job_ids: Iterable[str]) -> bytes:
        """See Wake."""
        return self._message("wake", orjson.dumps(list(job_ids)))

    def watch(self, cursors: Mapping[str, int]) -> bytes:
        """See Watch."""
        return self._message("watch", orjson.dumps(dict(cursors)))

    def ask(self) -> bytes:
        """See Ask."""
        return self._message("ask", b"null")

    def doubt(self, job_ids: Iterable[str]) -> bytes:
        """See Doubt."""
        return self._message("doubt", orjson.dumps(list(job_ids)))

    def news(self, encoded: Iterable[bytes]) -> bytes:
        """See News; each one was encoded by `encode_changes`."""
        return self._message("news", b"[%b]" % b",".join(encoded))

    def _message(self, kind: str, body: bytes) -> bytes:
        return b'%b"%b",%b]' % (self._start, kind.encode(), body)


def encode_changes(changes: JobChanges) -> bytes:
    """One element of News."""
    events = [list(event[1:]) for event in changes.events]
    return orjson.dumps([*changes[:-1], events])


def decode(raw: bytes) -> Message:
    """Reads a message.

    Raises:
        Malformed: whatever is wrong with it.
    """
    if len(raw) > LONGEST:
        raise Malformed(f"{len(raw)} bytes are more than {LONGEST}")
    try:
        version, _, kind, body = orjson.loads(raw)
        if version != VERSION:
            raise Malformed(f"version {version!r} is not {VERSION}")
        return _READERS[kind](body)
    except Malformed:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from error


def _ids(body: Any) -> list[str]:
    return [_job_id(value) for value in _list(body)]


def _watch(body: Any) -> Watch:
    if not isinstance(body, dict):
        raise Malformed("not an object")
    return Watch({_job_id(job_id): _count(cursor) for job_id, cursor in body.items()})


def _news(body: Any) -> News:
    return News([_changes(*_list(values)) for values in _list(body)])


def _changes(
    job_id: Any, state: Any, sequence: Any, progress_count: Any, first: Any, number: Any,
    progress_json: Any, progress_us: Any, heartbeat_us: Any, events: Any,
) -> JobChanges:  # fmt: skip
    name = _job_id(job_id)
    found = tuple(_event(name, *_list(values)) for values in _list(events))
    newest = _count(sequence)
    if any(event.sequence > newest for event in found):
        raise Malformed("an event beyond the end of its job")
    return JobChanges(
        name, JobState(state), newest, _count(progress_count), _count(first), _count(number),
        _maybe_text(progress_json), _maybe_time(progress_us), _maybe_time(heartbeat_us), found,
    )  # fmt: skip


def _event(
    job_id: str, sequence: Any, time_us: Any, number: Any, kind: Any, source: Any, target: Any,
    reason: Any, due_us: Any, body_json: Any,
) -> EventRecord:  # fmt: skip
    return EventRecord(
        job_id, _count(sequence), _time(time_us), _count(number), EventKind(kind),
        _count(source), _count(target), _text(reason), _maybe_time(due_us),
        _maybe_text(body_json),
    )  # fmt: skip


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise Malformed("not an array")
    return value


def _job_id(value: Any) -> str:
    # Interests are kept: their count is bounded, and so must be each of them.
    if len(name := _text(value)) > _LONGEST_ID:
        raise Malformed(f"an id of {len(name)} characters")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(f"not a text: {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise Malformed(f"not a count: {value!r:.40}")
    return value


def _maybe_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _time(value: Any) -> int:
    if (time_us := _count(value)) >= _LATEST_US:
        raise Malformed(f"not a time: {time_us}")
    return time_us


def _maybe_time(value: Any) -> int | None:
    return None if value is None else _time(value)


_READERS: dict[str, Callable[[Any], Message]] = {
    "wake": lambda body: Wake(_ids(body)),
    "watch": _watch,
    "ask": lambda _: Ask(),
    "news": _news,
    "doubt": lambda body: Doubt(_ids(body)),
}
