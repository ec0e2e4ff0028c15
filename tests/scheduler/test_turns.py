"""Which lane is served next, as the cycle asks it: pure."""

from __future__ import annotations

from longshore_scheduler.turns import CREDIT, Turns
from longshore_store.model import Lane

OLD = ("queue", "old")
NEW = ("queue", "new")
ASLEEP = ("queue", "asleep")


def serve(turns: Turns, *lanes: tuple[str, str], cycles: int = 1) -> list[tuple[str, str]]:
    """The lane that each of so many cycles serves. ASLEEP waits always and is never served."""
    served = []
    for _ in range(cycles):
        turns.join([Lane(*lane, 1) for lane in (*lanes, ASLEEP)])
        first = min(lanes, key=lambda lane: (turns.passes[lane], lane))
        turns.charge({first: 1, **{lane: 0 for lane in (*lanes, ASLEEP) if lane != first}})
        served.append(first)
    return served


def test_a_lane_that_cannot_be_served_gives_no_other_lane_precedence() -> None:
    turns = Turns()
    serve(turns, OLD, cycles=1000)
    assert serve(turns, OLD, NEW, cycles=20).count(OLD) in (9, 10, 11)


def test_a_lane_that_comes_back_starts_level() -> None:
    turns = Turns()
    serve(turns, OLD, NEW, cycles=10)
    serve(turns, OLD, cycles=1000)
    assert serve(turns, OLD, NEW, cycles=20).count(OLD) in (9, 10, 11)


def test_what_a_lane_that_could_not_be_served_may_catch_up_is_bounded() -> None:
    turns = Turns()
    serve(turns, OLD, cycles=1000)
    count = round(CREDIT)
    served = serve(turns, OLD, ASLEEP, cycles=2 * count)
    assert set(served[: count - 1]) == {ASLEEP}
    assert served[count + 1 :].count(OLD) >= (count - 4) // 2
