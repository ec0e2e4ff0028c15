"""The filter of ListJobs, as a parser."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore_server.filters import FilterError, Term, parse_filter, parse_terms
from longshore_store.model import JobQuery
from longshore_store.states import JobState

STATES = [state.name for state in JobState]


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


words = st.from_regex(r"[A-Za-z0-9_./-]{1,12}", fullmatch=True)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
values = st.one_of(words.map(lambda w: (w, w)), texts.map(lambda t: (quoted(t), t)))


@st.composite
def comparisons(draw: Any) -> tuple[str, Term]:
    """The text of a comparison, and what it is to become."""
    name = draw(st.sampled_from(["task", "queue", "tenant", "labels.team", "labels.a.b/c-d"]))
    many = name == "task" and draw(st.booleans())
    operators = ["="] if name.startswith("labels.") else ["=", "!="]
    space = draw(st.sampled_from(["", " ", "\t "]))
    if many:
        chosen = draw(st.lists(values, min_size=1, max_size=4))
        text = f"{space},{space}".join(value[0] for value in chosen)
        return f"{name}{space}:{space}({text})", Term(name, ":", tuple(v[1] for v in chosen), 0)
    operator, (text, value) = draw(st.sampled_from(operators)), draw(values)
    return f"{name}{space}{operator}{space}{text}", Term(name, operator, (value,), 0)


@given(st.lists(comparisons(), min_size=1, max_size=6))
def test_what_is_written_is_what_is_read(terms: list[tuple[str, Term]]) -> None:
    parsed = parse_terms(" AND ".join(text for text, _ in terms))
    assert [term._replace(position=0) for term in parsed] == [term for _, term in terms]


WORDS = ["state", "task", "labels.a", "create_time", "AND", "OR", "RUNNING", "x", "é"]
pieces = st.sampled_from([*'=:(),"\\ <!', "!=", ">=", *WORDS])


@given(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=20).map("".join)))
def test_anything_is_a_query_or_a_filter_error(text: str) -> None:
    try:
        query = parse_filter(text, "default")
    except FilterError as error:
        assert 0 <= error.position <= len(text)
        assert f"position {error.position + 1}" in str(error)
    else:
        assert query is None or query.tenants == ("default",)


def query(text: str) -> JobQuery:
    found = parse_filter(text, "default")
    assert found is not None
    return found


def test_the_example_of_the_contract() -> None:
    found = query(
        'state = RUNNING AND queue = "default" AND labels.team = "ads"\n'
        '  AND create_time >= "2026-01-31T00:00:00Z"'
    )
    assert found.states == (JobState.RUNNING,)
    assert found.queues == ("default",)
    assert found.labels == (("team", "ads"),)
    assert found.created_from_us == int(datetime(2026, 1, 31, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize("state", STATES)
def test_states_with_and_without_prefix(state: str) -> None:
    assert query(f"state = {state}") == query(f'state = "JOB_STATE_{state}"')


def test_lists_and_refusals() -> None:
    assert query("state:(QUEUED, RUNNING)").states == (JobState.QUEUED, JobState.RUNNING)
    assert query("state:QUEUED").states == (JobState.QUEUED,)
    assert query("state != QUEUED AND state != RUNNING").not_states == (
        JobState.QUEUED,
        JobState.RUNNING,
    )
    assert query("state:(QUEUED, RUNNING) AND state != RUNNING").states == (JobState.QUEUED,)


@pytest.mark.parametrize(
    ("operator", "start", "end"),
    [
        ("=", 0, 1),
        (">", 1, None),
        (">=", 0, None),
        ("<", None, 0),
        ("<=", None, 1),
    ],
)
def test_times_are_bounds(operator: str, start: int | None, end: int | None) -> None:
    base = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    for zone in ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"):
        found = query(f'end_time {operator} "{zone}"')
        assert found.ended_from_us == (None if start is None else base + start)
        assert found.ended_before_us == (None if end is None else base + end)


def test_bounds_that_meet_are_narrowed() -> None:
    found = query("create_time > 2026-01-01T00:00:00Z AND create_time > 2026-01-02T00:00:00Z")
    assert found == query("create_time > 2026-01-02T00:00:00Z")


@pytest.mark.parametrize(
    "text",
    [
        "state = QUEUED AND state = RUNNING",
        "tenant = other",
        "tenant != default",
        "labels.a = x AND labels.a = y",
    ],
)
def test_what_nothing_can_meet(text: str) -> None:
    assert parse_filter(text, "default") is None


@pytest.mark.parametrize(
    ("text", "position", "remedy"),
    [
        ("colour = red", 1, "use state, task"),
        ("state", 6, "use = != :"),
        ("state = ", 9, "a value belongs"),
        ("state = BLUE", 1, "use SCHEDULED"),
        ("state = QUEUED OR state = RUNNING", 16, "AND"),
        ("queue:(a, b)", 6, "use = !="),
        ("state:(QUEUED", 14, "use , or )"),
        ("create_time = yesterday", 1, "2026-01-31T00:00:00Z"),
        ("create_time = 2026-01-31", 1, "2026-01-31T00:00:00Z"),
        ('task = "open', 8, "close it"),
        ("labels. = x", 1, "use state"),
        ("labels.a != x", 10, "use ="),
        ("state = QUEUED AND", 19, "is not a field"),
        ('task = "a\0b"', 10, "NUL"),
    ],
)
def test_errors_name_position_and_remedy(text: str, position: int, remedy: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text, "default")
    assert f"at position {position}:" in str(caught.value)
    assert remedy in str(caught.value)


def test_length_and_number_are_bounded() -> None:
    with pytest.raises(FilterError, match="longer than"):
        parse_filter("x" * 5000, "default")
    with pytest.raises(FilterError, match="more than 64"):
        parse_filter(" AND ".join(["task = a"] * 65), "default")
