"""Placement: pure, so that every rule is a small table and a few laws."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from longshore_scheduler.plan import Plan, Snapshot, WorkerView, plan
from longshore_scheduler.room import Room, count_fitting, empty_room, take
from longshore_store.model import Head
from longshore_store.needs import Needs, lacking, needs_json, parse_needs

GIB = 1024**3
CPU_OFFER = Needs(cpu_millis=4000, memory_bytes=8 * GIB)
GPU_OFFER = Needs(4000, 16 * GIB, 2000, 24 * GIB, accelerators=("L4",))
BIG_GPU_OFFER = Needs(4000, 16 * GIB, 1000, 80 * GIB, accelerators=("H100",))
OFFERS = {"cpu": CPU_OFFER, "gpu": GPU_OFFER, "big": BIG_GPU_OFFER}
ONE_CORE = needs_json(cpu_millis=1000)


def make_view(name: str, pool: str = "cpu", runners: int = 16, **changes: Any) -> WorkerView:
    offer = OFFERS[pool]
    view = WorkerView(name, pool, offer, empty_room(offer, runners))
    return view._replace(**changes)


def make_heads(
    count: int, needs: str = ONE_CORE, task: str = "t", tenant: str = "a", priority: int = 50
) -> list[Head]:
    return [
        Head(f"{tenant}-{task}-{n}", 1, "q", tenant, task, priority, needs, n) for n in range(count)
    ]


def make_snapshot(workers: list[WorkerView], *lanes: list[Head], **changes: Any) -> Snapshot:
    heads = {(lane[0].queue, lane[0].tenant): lane for lane in lanes}
    values: dict[str, Any] = {"workers": workers, "heads": heads, "offers": OFFERS, **changes}
    return Snapshot(**values)


def placed_by_worker(planned: Plan) -> Counter[str]:
    return Counter(placement.worker_id for placement in planned.placements)


def test_no_more_than_there_is_room_for() -> None:
    planned = plan(make_snapshot([make_view("w")], make_heads(10)))
    assert placed_by_worker(planned) == {"w": 4}
    assert [head.id for head in planned.waiting] == [f"a-t-{n}" for n in range(4, 10)]


def test_a_job_goes_to_a_worker_that_has_its_task() -> None:
    old = make_view("old", tasks=frozenset({"t"}), behind=True)
    new = make_view("new", tasks=frozenset({"t", "brandnew"}))
    heads = make_heads(3, task="brandnew")
    assert placed_by_worker(plan(make_snapshot([old, new], heads))) == {"new": 3}
    planned = plan(make_snapshot([old], heads))
    assert not planned.placements
    assert planned.waiting == heads, "none has it: it waits"
    silent = make_view("silent")  # one that does not say what it has is tried
    assert placed_by_worker(plan(make_snapshot([silent], heads))) == {"silent": 3}
    lacking = silent._replace(lacks=frozenset({"brandnew"}))
    assert not plan(make_snapshot([lacking], heads)).placements


def test_the_new_build_is_filled_before_an_old_one() -> None:
    tasks = frozenset({"t"})
    old, new = make_view("a", tasks=tasks, behind=True), make_view("b", tasks=tasks)
    planned = plan(make_snapshot([old, new], make_heads(6)))
    assert placed_by_worker(planned) == {"b": 4, "a": 2}


def test_no_more_at_once_than_runners() -> None:
    planned = plan(make_snapshot([make_view("w", runners=2)], make_heads(10)))
    assert placed_by_worker(planned) == {"w": 2}


def test_a_large_job_does_not_hold_up_the_small_ones_behind_it() -> None:
    lane = [*make_heads(1, needs_json(cpu_millis=64_000), "huge"), *make_heads(2)]
    planned = plan(make_snapshot([make_view("w")], lane))
    assert [p.head.task for p in planned.placements] == ["t", "t"]
    assert [head.task for head in planned.waiting] == ["huge"]


def test_best_fit_keeps_large_rooms_whole() -> None:
    half = make_view("half", room=Room(2000, 4 * GIB, 8))
    planned = plan(make_snapshot([make_view("whole"), half], make_heads(2)))
    assert placed_by_worker(planned) == {"half": 2}


def test_a_cpu_job_leaves_gpu_workers_alone() -> None:
    planned = plan(make_snapshot([make_view("g", "gpu")], make_heads(1)))
    assert not planned.placements


def test_a_cpu_job_takes_a_gpu_worker_where_nothing_else_could_ever_run_it() -> None:
    needs = needs_json(cpu_millis=1000, memory_bytes=12 * GIB)
    planned = plan(make_snapshot([make_view("g", "gpu")], make_heads(1, needs)))
    assert placed_by_worker(planned) == {"g": 1}


def test_shares_of_a_device_are_packed_and_whole_devices_kept() -> None:
    half = needs_json(cpu_millis=100, gpu_millis=500)
    whole = needs_json(cpu_millis=100, gpu_millis=1000)
    lane = [*make_heads(2, half, "half"), *make_heads(1, whole, "whole")]
    planned = plan(make_snapshot([make_view("g", "gpu")], lane))
    assert len(planned.placements) == 3


def test_memory_of_a_device_is_not_lent_twice() -> None:
    needs = needs_json(cpu_millis=100, gpu_millis=250, gpu_memory_bytes=16 * GIB)
    planned = plan(make_snapshot([make_view("g", "gpu")], make_heads(4, needs)))
    assert len(planned.placements) == 2  # one on each device, whatever the share


def test_two_gpus_mean_two_whole_ones() -> None:
    needs = needs_json(cpu_millis=100, gpu_millis=2000)
    used, _ = take(empty_room(GPU_OFFER, 16), Needs(gpu_millis=250))
    assert not plan(
        make_snapshot([make_view("g", "gpu", room=used)], make_heads(1, needs))
    ).placements
    assert plan(make_snapshot([make_view("g", "gpu")], make_heads(1, needs))).placements


def test_accelerators_in_order_of_preference() -> None:
    workers = [make_view("l4", "gpu"), make_view("h100", "big")]
    for kinds, expected in ((("H100", "L4"), "h100"), (("L4", "H100"), "l4"), (("H100",), "h100")):
        needs = needs_json(cpu_millis=100, gpu_millis=1000, accelerators=kinds)
        planned = plan(make_snapshot(workers, make_heads(1, needs)))
        assert [p.worker_id for p in planned.placements] == [expected]
    needs = needs_json(cpu_millis=100, gpu_millis=1000, accelerators=["TPU"])
    assert not plan(make_snapshot(workers, make_heads(1, needs))).placements


def test_a_warm_worker_is_preferred_but_not_waited_for() -> None:
    needs = needs_json(cpu_millis=4000, model="llama")
    workers = [make_view("a"), make_view("b", models=frozenset({"llama"}))]
    planned = plan(make_snapshot(workers, make_heads(2, needs)))
    assert [p.worker_id for p in planned.placements] == ["b", "a"]


def test_custom_counts() -> None:
    offer = CPU_OFFER._replace(custom=(("licence", 2),))
    view = WorkerView("w", "cpu", offer, empty_room(offer, 16))
    needs = needs_json(cpu_millis=100, custom={"licence": 1})
    planned = plan(make_snapshot([view], make_heads(5, needs), offers={"cpu": offer}))
    assert len(planned.placements) == 2


# --- handing ahead


def test_unknown_run_time_is_never_handed_ahead() -> None:
    planned = plan(make_snapshot([make_view("w")], make_heads(100)))
    assert not any(placement.ahead for placement in planned.placements)


def test_quick_jobs_are_handed_ahead_for_as_long_as_the_wait_allows() -> None:
    snapshot = make_snapshot([make_view("w")], make_heads(100), run_times={"t": 0.005})
    planned = plan(snapshot)
    # 4 at once, 20 ms / 5 ms x 4 = 16 of them; the wait of the last is still under 20 ms.
    assert len(planned.placements) == 16
    assert [p.ahead for p in planned.placements] == [False] * 4 + [True] * 12


def test_handing_ahead_is_bounded() -> None:
    snapshot = make_snapshot(
        [make_view("w")], make_heads(1000), run_times={"t": 1e-5}, maximum_prefetch=100
    )
    assert len(plan(snapshot).placements) == 104


def test_long_jobs_never_wait_behind_each_other() -> None:
    planned = plan(make_snapshot([make_view("w")], make_heads(100), run_times={"t": 0.03}))
    assert len(planned.placements) == 4


def test_nothing_waits_behind_long_jobs() -> None:
    full = make_view("w", room=Room(0, 0, 12))
    assert not plan(make_snapshot([full], make_heads(5), run_times={"t": 1e-5})).placements


def test_quick_jobs_are_spread() -> None:
    workers = [make_view("a"), make_view("b")]
    planned = plan(make_snapshot(workers, make_heads(8), run_times={"t": 0.001}))
    assert placed_by_worker(planned) == {"a": 4, "b": 4}


# --- between lanes


def test_lanes_take_turns() -> None:
    lanes = [make_heads(10, tenant="a"), make_heads(10, tenant="b")]
    planned = plan(make_snapshot([make_view("w")], *lanes))
    assert planned.served == {("q", "a"): 2, ("q", "b"): 2}


def test_the_lane_served_least_goes_first_whatever_its_priority() -> None:
    lanes = [make_heads(10, tenant="a", priority=100), make_heads(10, tenant="b", priority=0)]
    view = make_view("w", room=Room(1000, GIB, 1))
    first = plan(make_snapshot([view], *lanes))
    second = plan(make_snapshot([view], *lanes, passes={("q", "a"): 1.0}))
    assert [p.head.tenant for p in (*first.placements, *second.placements)] == ["a", "b"]


# --- laws

NEEDS = st.builds(
    lambda cpu, memory, gpu, kinds: needs_json(
        cpu_millis=cpu,
        memory_bytes=memory * GIB,
        gpu_millis=gpu,
        gpu_memory_bytes=4 * GIB if gpu else 0,
        accelerators=kinds if gpu else (),
    ),
    st.sampled_from([100, 500, 1000, 3000, 9000]),
    st.integers(0, 10),
    st.sampled_from([0, 0, 250, 500, 1000, 2000]),
    st.sampled_from([(), ("L4",), ("H100", "L4"), ("TPU",)]),
)
HEADS = st.lists(
    st.tuples(NEEDS, st.sampled_from(["slow", "quick", "new"]), st.sampled_from("abc")),
    max_size=40,
)
WORKERS = st.lists(st.tuples(st.sampled_from(sorted(OFFERS)), st.integers(0, 6)), max_size=6)


def build(heads: list[tuple[str, str, str]], workers: list[tuple[str, int]]) -> Snapshot:
    lanes: dict[tuple[str, str], list[Head]] = {}
    for n, (needs, task, tenant) in enumerate(heads):
        lane = lanes.setdefault(("q", tenant), [])
        lane.append(Head(f"j{n}", 1, "q", tenant, task, 50, needs, n))
    views = [make_view(f"w{n}", pool, runners) for n, (pool, runners) in enumerate(workers)]
    return Snapshot(views, lanes, OFFERS, {"slow": 1.0, "quick": 0.002})


@given(HEADS, WORKERS)
def test_lasting_attempts_never_exceed_a_worker(
    heads: list[tuple[str, str, str]], workers: list[tuple[str, int]]
) -> None:
    snapshot = build(heads, workers)
    rooms = {view.id: view.room for view in snapshot.workers}
    for placement in plan(snapshot).placements:
        if placement.estimate is None:
            assert count_fitting(rooms[placement.worker_id], placement.needs) > 0
            room, _ = take(rooms[placement.worker_id], placement.needs)
            rooms[placement.worker_id] = room
            assert min(room.cpu_millis, room.memory_bytes, room.runners) >= 0
            assert all(min(device) >= 0 for device in room.devices)


@given(HEADS, WORKERS)
def test_nothing_is_placed_where_it_could_never_run(
    heads: list[tuple[str, str, str]], workers: list[tuple[str, int]]
) -> None:
    snapshot = build(heads, workers)
    views = {view.id: view for view in snapshot.workers}
    for placement in plan(snapshot).placements:
        assert lacking(placement.needs, views[placement.worker_id].offer) is None


@given(HEADS, WORKERS)
def test_equal_snapshots_give_equal_plans_and_every_head_is_accounted_for(
    heads: list[tuple[str, str, str]], workers: list[tuple[str, int]]
) -> None:
    snapshot = build(heads, workers)
    first = plan(snapshot)
    second = plan(replace(snapshot, workers=snapshot.workers[::-1]))
    assert first == second
    ids = [p.head.id for p in first.placements] + [head.id for head in first.waiting]
    assert sorted(ids) == sorted(f"j{n}" for n in range(len(heads)))


@given(HEADS, WORKERS)
def test_there_is_progress_if_anything_fits(
    heads: list[tuple[str, str, str]], workers: list[tuple[str, int]]
) -> None:
    snapshot = build(heads, workers)
    planned = plan(snapshot)
    if not planned.placements:
        for head in planned.waiting:
            needs = parse_needs(head.needs_json)
            assert not any(
                count_fitting(view.room, needs) and lacking(needs, view.offer) is None
                for view in snapshot.workers
                if needs.gpu_millis or view.pool == "cpu"
            ), head


def test_planning_a_thousand_heads_is_quick_on_many_workers() -> None:
    workers = [make_view(f"w{n:03}") for n in range(200)]
    heads = [*make_heads(500, task="a"), *make_heads(500, task="b")]
    snapshot = make_snapshot(workers, heads, run_times={"a": 1e-4})
    best = min(_time(snapshot) for _ in range(10))
    assert best < 0.02  # of this thread's own time, on whatever machine; 3 ms on most


def _time(snapshot: Snapshot) -> float:
    began = time.thread_time()
    assert len(plan(snapshot).placements) == 1000
    return time.thread_time() - began
