"""The parts of the bus by themselves: messages, bounds, memory of who watches, circuit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore_store.bus import ANYTHING, BusRefused
from longshore_store.bus.circuit import FIRST_PAUSE, LONGEST_PAUSE, Circuit
from longshore_store.bus.interests import Interests
from longshore_store.bus.outbox import NEWS_BYTES, WAKE_IDS, WATCHES, Outbox
from longshore_store.bus.wire import (
    LONGEST,
    Ask,
    Channels,
    Doubt,
    Encoder,
    Malformed,
    News,
    Wake,
    Watch,
    decode,
    encode_changes,
)
from longshore_store.model import EventKind, EventRecord, JobChanges
from longshore_store.states import JobState

SENDER = "0123456789abcdef"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
COUNTS = st.integers(0, 2**62 - 1)
TIMES = st.integers(0, 2**57)
KINDS = st.sampled_from(["wake", "watch", "ask", "news", "doubt", "other"])


@st.composite
def changes(draw: st.DrawFn) -> JobChanges:
    text, maybe_time = st.text(), st.none() | TIMES
    sequence = draw(st.integers(1, 1000))
    events = tuple(
        EventRecord(
            "job", draw(st.integers(1, sequence)), draw(TIMES), draw(COUNTS),
            draw(st.sampled_from(EventKind)), draw(COUNTS), draw(COUNTS), draw(text),
            draw(maybe_time), draw(st.none() | text),
        )
        for _ in range(draw(st.integers(0, 3)))
    )  # fmt: skip
    return JobChanges(
        "job", draw(st.sampled_from(JobState)), sequence, draw(COUNTS), draw(COUNTS),
        draw(COUNTS), draw(st.none() | text), draw(maybe_time), draw(maybe_time), events,
    )  # fmt: skip


@given(st.lists(changes(), max_size=3))
def test_changes_arrive_as_they_were_read(found: list[JobChanges]) -> None:
    message = decode(Encoder(SENDER).news(map(encode_changes, found)))
    assert message == News(found)
    assert [type(one.state) for one in found] == [JobState] * len(found)


def test_the_other_messages_arrive_as_they_were_sent() -> None:
    encoder = Encoder(SENDER)
    assert decode(encoder.wake(["a", ANYTHING])) == Wake(["a", ANYTHING])
    assert decode(encoder.watch({"a": 3})) == Watch({"a": 3})
    assert decode(encoder.doubt(["a"])) == Doubt(["a"])
    assert decode(encoder.ask()) == Ask()
    assert encoder.is_own(encoder.ask())
    assert not Encoder("f" * 16).is_own(encoder.ask())


@given(st.binary())
def test_bytes_that_are_no_message(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode(raw)


@given(KINDS, JSON)
def test_json_that_may_be_no_message(kind: str, body: Any) -> None:
    raw = orjson.dumps([1, SENDER, kind, body], default=str)
    with contextlib.suppress(Malformed):
        decode(raw)


def test_what_is_too_long_is_not_read() -> None:
    with pytest.raises(Malformed, match="bytes"):
        decode(b" " * (LONGEST + 1))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Channels.of("test"), Encoder(SENDER))


def test_wakes_are_merged_and_both_ends_are_named(outbox: Outbox) -> None:
    ids = [f"{n:06}" for n in range(3 * WAKE_IDS)]
    outbox.wake([ANYTHING])
    for n in range(0, len(ids), 10):
        outbox.wake(ids[n : n + 10])
    [(channel, body)] = outbox.take()
    message = decode(body)
    assert channel == "longshore:test:wakes"
    assert isinstance(message, Wake)
    half = WAKE_IDS // 2
    assert sorted(message.job_ids) == [ANYTHING, *ids[: half - 1], *ids[-half:]]
    assert outbox.take() == []


def test_messages_are_bounded(outbox: Outbox) -> None:
    chunk = b'"%b"' % (b"x" * 300_000)
    for n in range(2 * NEWS_BYTES // len(chunk)):
        outbox.news(f"job-{n}", chunk)
    assert outbox.pending_bytes <= NEWS_BYTES
    assert outbox.dropped > 0
    kept, sent = len(outbox), 0
    while found := outbox.take():
        assert all(len(body) <= LONGEST for _, body in found)
        sent += sum(body.count(chunk) for _, body in found)
    assert (sent, outbox.pending_bytes) == (kept, 0)


def test_one_that_fits_no_message_is_to_be_read(outbox: Outbox) -> None:
    for size in (LONGEST - 256, LONGEST, 2 * LONGEST):
        outbox.news("long", b"x" * size)
    [(_, body)] = outbox.take()
    assert decode(body) == Doubt(["long"])


def test_watches_are_bounded_and_go_in_pages(outbox: Outbox) -> None:
    for n in range(WATCHES + 10):
        outbox.watch({f"{n:06}": 0})
    assert len(outbox) == WATCHES
    assert outbox.dropped == 10
    sent: set[str] = set()
    while found := outbox.take():
        for _, body in found:
            message = decode(body)
            assert isinstance(message, Watch)
            sent |= message.cursors.keys()
    assert len(sent) == WATCHES


def test_what_is_cleared_counts_as_dropped(outbox: Outbox) -> None:
    outbox.wake(["a"])
    outbox.watch({"a": 1, "b": 1})
    outbox.news("a", b"[]")
    outbox.doubt("b")
    outbox.ask()
    outbox.clear()
    assert outbox.dropped == 6
    assert (len(outbox), outbox.pending_bytes, outbox.take()) == (0, 0, [])


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_interests_expire_unless_repeated() -> None:
    clock = Clock()
    interests = Interests(lasting=10.0, clock=clock)
    assert interests.note({"a": 1, "b": 5}) == ["a", "b"]
    clock.seconds = 6.0
    assert interests.note({"a": 3}) == []
    clock.seconds = 11.0
    interests.forget()
    assert interests.among(["a", "b", "c"]) == {"a"}
    assert interests.note({"b": 1}) == ["b"]


def test_the_cursor_of_an_interest_never_falls() -> None:
    interests = Interests()
    interests.note({"a": 4})
    interests.advance("a", 7)
    interests.advance("a", 6)
    interests.note({"a": 2})
    interests.advance("unknown", 9)
    assert interests.cursors(["a", "unknown"]) == {"a": 7}


def test_interests_are_bounded_and_cost_little() -> None:
    clock = Clock()
    interests = Interests(maximum=1000, lasting=10.0, clock=clock)
    for n in range(3000):
        interests.note({str(n): 0})
    assert len(interests) == 1000
    commit = [f"job-{n}" for n in range(1000)]
    begin = time.perf_counter()
    for _ in range(100):
        interests.among(commit)
    print(f"a commit of 1,000 jobs is looked up in {(time.perf_counter() - begin) * 1e4:.1f} us")
    clock.seconds = 10.0
    interests.forget()
    assert len(interests) == 0


def make_circuit(clock: Clock, chance: Callable[[], float] = lambda: 0.5) -> Circuit:
    return Circuit("redis.example:6379", clock=clock, chance=chance)


def test_pauses_double_up_to_a_limit_and_begin_anew() -> None:
    clock = Clock()
    circuit = make_circuit(clock)
    pauses = [circuit.open(OSError("away")) for _ in range(7)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    circuit.close()
    clock.seconds = 5.0
    assert circuit.open(OSError("away")) == LONGEST_PAUSE, "it did not last"
    circuit.close()
    clock.seconds = 20.0
    assert circuit.open(OSError("away")) == FIRST_PAUSE


def test_one_line_for_each_reason_and_one_at_closing(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    circuit = make_circuit(clock)
    circuit.close()
    for _ in range(5):
        circuit.open(OSError("it is away"))
    for _ in range(5):
        circuit.open(BusRefused("it refuses us"))
    clock.seconds = 3.0
    circuit.close()
    assert caplog.messages == [
        "it is away; going on by polling the store",
        "it refuses us; going on by polling the store",
        "Redis at redis.example:6379 answers again after 3.0 s",
    ]


def test_one_machine_needs_no_redis() -> None:
    probe = (
        "import sys, longshore_embedded.service, longshore_store.bus; "
        "print(*sorted(name for name in sys.modules if name.split('.')[0] == 'redis'))"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
