"""How often a cycle runs and a worker is polled: what comes in a stream comes together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from longshore_scheduler.crew import Crew
from longshore_scheduler.cycle import Cycle, CycleCounts


def test_cycles_are_rarer_the_more_each_leases_but_not_while_jobs_wait() -> None:
    term: Any = SimpleNamespace(backlog=False)
    cycle = Cycle(term, cast(Any, None))
    alone, some, many, more = (cycle._period(CycleCounts(leased=n)) for n in (1, 5, 50, 500))
    assert alone < some < many == more
    term.backlog = True
    assert cycle._period(CycleCounts(leased=500)) == alone


async def test_a_worker_is_polled_at_once_after_one_attempt_and_later_after_many() -> None:
    pauses: list[float] = []
    now = 100.0

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    term: Any = SimpleNamespace(clock=lambda: now, pause=pause)
    crew = Crew(term, cast(Any, None))
    await crew._gather(now, reports=2)
    assert pauses == []
    await crew._gather(now, reports=5)
    await crew._gather(now, reports=500)
    assert 0 < pauses[0] < pauses[1]
    now += pauses[1]  # it took as long to write what was reported
    await crew._gather(now - pauses[1], reports=500)
    assert len(pauses) == 2
