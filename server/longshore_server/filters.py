"""The filter of ListJobs: an AIP-160 subset, comparisons joined by AND.

filter     = [ comparison { "AND" comparison } ]
comparison = field operator value | field ":" ( value | "(" value { "," value } ")" )
field      = state | task | queue | tenant | create_time | end_time | labels.NAME
value      = a word or a text in double quotes, with \\" and \\\\ inside
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from longshore_store.model import JobQuery
from longshore_store.states import JobState

LONGEST = 4096
MOST_TERMS = 64
MOST_VALUES = 100
_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\["\\])*")|(?P<op><=|>=|!=|[=<>:(),])|(?P<word>[^\s"=<>!:(),]+'
    r"(?::\d[^\s\"=<>!(),]*)?)"
)
_EQUALITY = {
    "state": ("=", "!=", ":"),
    "task": ("=", "!=", ":"),
    "queue": ("=", "!="),
    "tenant": ("=", "!="),
}
_ORDER = ("=", "<", "<=", ">", ">=")
_TIMES = ("create_time", "end_time")
_FIELDS = "state, task, queue, tenant, labels.NAME, create_time, end_time"
_STATES = {state.name: state for state in JobState}


class FilterError(ValueError):
    """A filter that cannot be read; the message names the position, from 1, and the remedy."""

    def __init__(self, position: int, text: str) -> None:
        super().__init__(f"at position {position + 1}: {text}")
        self.position = position


class Token(NamedTuple):
    """A piece of the filter: kind is text, op, word or end."""

    kind: str
    value: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.value)


class Term(NamedTuple):
    """One comparison. `values` has one value but for lists."""

    field: str
    operator: str
    values: tuple[str, ...]
    position: int


@dataclass
class Conditions:
    """What the comparisons add up to. Sets that are None are not restricted."""

    allowed: dict[str, frozenset[str] | None] = field(default_factory=dict)
    refused: dict[str, frozenset[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    lows: dict[str, int] = field(default_factory=dict)
    highs: dict[str, int] = field(default_factory=dict)
    is_empty: bool = False


def parse_filter(text: str, tenant: str) -> JobQuery | None:
    """The conditions as a query of one tenant, or None where no job can meet them.

    Raises:
        FilterError: the text is outside the grammar.
    """
    found = Conditions()
    found.allowed["tenant"] = frozenset({tenant})
    for term in parse_terms(text):
        _apply(term, found)
    return _query(found)


def parse_terms(text: str) -> list[Term]:
    """The comparisons in their order. Raises FilterError."""
    if len(text) > LONGEST:
        raise FilterError(LONGEST, f"the filter is longer than {LONGEST} characters; shorten it")
    if "\0" in text:
        raise FilterError(text.index("\0"), "a NUL character; remove it")
    return _Parser(tokenize(text)).filter()


def tokenize(text: str) -> list[Token]:
    """The pieces, with one of kind "end" last. Raises FilterError."""
    tokens, position = [], _skip(text, 0)
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FilterError(position, _stray(text[position]))
        kind = match.lastgroup or ""
        value = match.group()
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        tokens.append(Token(kind, value, position))
        position = _skip(text, match.end())
    return [*tokens, Token("end", "", len(text))]


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _stray(character: str) -> str:
    if character == '"':
        return 'a text is not closed, or holds a \\ that is not \\" or \\\\; close it with "'
    return f"{character!r} does not belong here; quote values that hold it"


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def filter(self) -> list[Term]:
        terms: list[Term] = []
        if self._peek().kind == "end":
            return terms
        while True:
            terms.append(self._comparison())
            if len(terms) > MOST_TERMS:
                raise FilterError(terms[-1].position, f"more than {MOST_TERMS} comparisons")
            token = self._take()
            if token.kind == "end":
                return terms
            if token.kind != "word" or token.value != "AND":
                raise FilterError(token.position, f"{token} where AND or the end belongs")

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _comparison(self) -> Term:
        name = self._take()
        operators = _operators(name)
        operator = self._take()
        if operator.kind != "op" or operator.value not in operators:
            allowed = " ".join(operators)
            raise FilterError(operator.position, f"{operator} after {name.value}; use {allowed}")
        if operator.value == ":" and self._peek() == ("op", "(", self._peek().position):
            values = self._list()
        else:
            values = (self._value(),)
        return Term(name.value, operator.value, values, name.position)

    def _list(self) -> tuple[str, ...]:
        opening = self._take()
        values = [self._value()]
        while (token := self._take()).value == "," and token.kind == "op":
            values.append(self._value())
            if len(values) > MOST_VALUES:
                raise FilterError(opening.position, f"a list has more than {MOST_VALUES} values")
        if token.kind != "op" or token.value != ")":
            raise FilterError(token.position, f"{token} in a list; use , or )")
        return tuple(values)

    def _value(self) -> str:
        token = self._take()
        if token.kind not in ("word", "text"):
            raise FilterError(token.position, f"{token} where a value belongs")
        return token.value


def _operators(name: Token) -> tuple[str, ...]:
    if name.kind == "word":
        if name.value in _EQUALITY:
            return _EQUALITY[name.value]
        if name.value in _TIMES:
            return _ORDER
        if name.value.startswith("labels.") and len(name.value) > len("labels."):
            return ("=",)
    raise FilterError(name.position, f"{name} is not a field; use {_FIELDS}")


def _apply(term: Term, found: Conditions) -> None:
    name = term.field
    if name in _TIMES:
        _bound(name, term, found)
    elif name.startswith("labels."):
        label = name.removeprefix("labels.")
        # A label has one value: two different ones can never both hold.
        if found.labels.setdefault(label, term.values[0]) != term.values[0]:
            found.is_empty = True
    else:
        values = (
            frozenset(_state(v, term.position) for v in term.values)
            if name == "state"
            else (frozenset(term.values))
        )
        if term.operator == "!=":
            found.refused[name] = found.refused.get(name, frozenset()) | values
        else:
            before = found.allowed.get(name)
            found.allowed[name] = values if before is None else before & values


def _state(value: str, position: int) -> str:
    name = value.removeprefix("JOB_STATE_")
    if name not in _STATES:
        raise FilterError(position, f"{value!r} is not a state; use {', '.join(_STATES)}")
    return name


def _bound(name: str, term: Term, found: Conditions) -> None:
    us = _time(term.values[0], term.position)
    low = {"=": us, ">=": us, ">": us + 1}.get(term.operator)
    high = {"=": us + 1, "<": us, "<=": us + 1}.get(term.operator)
    if low is not None:
        found.lows[name] = max(low, found.lows.get(name, low))
    if high is not None:
        found.highs[name] = min(high, found.highs.get(name, high))


def _time(value: str, position: int) -> int:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None or "T" not in value.upper():
            raise ValueError(value)
        return int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    except (ValueError, OverflowError) as error:
        text = f'{value!r} is not a time; write "2026-01-31T00:00:00Z"'
        raise FilterError(position, text) from error


def _query(found: Conditions) -> JobQuery | None:
    sets: dict[str, tuple[str, ...]] = {}
    for name in _EQUALITY:
        allowed, refused = found.allowed.get(name), found.refused.get(name, frozenset())
        if allowed is not None:
            allowed -= refused
            if not allowed:
                return None
            refused = frozenset()
        sets[name], sets[f"not {name}"] = tuple(sorted(allowed or ())), tuple(sorted(refused))
    if found.is_empty:
        return None
    query = JobQuery(
        tasks=sets["task"],
        not_tasks=sets["not task"],
        queues=sets["queue"],
        not_queues=sets["not queue"],
        tenants=sets["tenant"],
        not_tenants=sets["not tenant"],
        states=tuple(int(_STATES[name]) for name in sets["state"]),
        not_states=tuple(int(_STATES[name]) for name in sets["not state"]),
        labels=tuple(sorted(found.labels.items())),
    )
    return replace(
        query,
        created_from_us=found.lows.get("create_time"),
        created_before_us=found.highs.get("create_time"),
        ended_from_us=found.lows.get("end_time"),
        ended_before_us=found.highs.get("end_time"),
    )
