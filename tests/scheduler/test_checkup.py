"""What workers hold against what is leased: ghosts, zombies and twins, each seen twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from longshore_cpu_workers.wire import Needs, WorkerInfo
from longshore_scheduler.checkup import Holdings, Leases, check_up
from longshore_scheduler.cluster import Found, WorkerGone

LEASES = {("a", 1): "w1", ("b", 2): "w2"}
WELL = {"w1": [("a", 1, "RUNNING")], "w2": [("b", 2, "WAITING")]}


class Looks:
    """A cluster and a store that show something else at each look; the last one stays."""

    def __init__(self, *looks: tuple[Leases, Holdings]) -> None:
        self._looks = list(looks)
        self._now: tuple[Leases, Holdings] = ({}, {})

    async def leases(self) -> Leases:
        self._now = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return self._now[0]

    async def find_workers(self) -> Found:
        return Found([WorkerInfo(i, "cpu", "n", 1, Needs()) for i in self._now[1]], [])

    async def held(self, worker_id: str) -> list[tuple[str, int, str]]:
        held: Sequence[tuple[str, int, str]] = self._now[1][worker_id]
        if ("gone", 0, "") in held:
            raise WorkerGone(worker_id)
        return list(held)

    async def subjects(self) -> list[str]:
        examined = await check_up(self, self.leases, second_look=0.0)
        return [f"{finding.subject}: {finding.found}" for finding in examined.findings]


async def test_all_is_well() -> None:
    examined = await check_up(Looks((LEASES, WELL)), Looks((LEASES, WELL)).leases, second_look=0.0)
    assert examined.drift == 0
    assert await Looks((LEASES, WELL)).subjects() == []


@pytest.mark.parametrize(
    ("holdings", "found"),
    [
        ({**WELL, "w1": []}, ["job a fence 1 ghost: leased to worker w1, which does not have it"]),
        (
            {**WELL, "w1": [("a", 1, "RUNNING"), ("c", 4, "HANDED")]},
            ["job c fence 4 zombie: HANDED on worker w1 without a lease"],
        ),
        (
            {"w1": [("a", 1, "RUNNING")], "w2": [("b", 2, "WAITING"), ("a", 0, "RUNNING")]},
            [
                "job a fence 0 zombie: RUNNING on worker w2 without a lease",
                "job a twin: runs on w1 (fence 1) and w2 (fence 0)",
            ],
        ),
    ],
    ids=["ghost", "zombie", "twin"],
)
async def test_what_is_wrong_is_named(holdings: Holdings, found: list[str]) -> None:
    assert await Looks((LEASES, holdings)).subjects() == found


async def test_what_is_under_way_is_no_finding() -> None:
    """A lease not yet delivered at the first look, an outcome not yet stored at the second."""
    first = ({**LEASES, ("c", 1): "w1"}, WELL)
    second = (LEASES, {**WELL, "w1": []})
    assert await Looks(first, second).subjects() == []


async def test_of_a_worker_that_does_not_answer_nothing_is_said() -> None:
    assert await Looks((LEASES, {**WELL, "w2": [("gone", 0, "")]})).subjects() == []
