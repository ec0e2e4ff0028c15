"""Errors in logs quote nobody's rows."""

from __future__ import annotations

import pytest

from longshore_store.telling import without_values

ROW = "row (hunter2)"
DETAIL = f"DETAIL: Failing {ROW}"


def fail(text: str, cause: BaseException | None = None) -> None:
    raise ValueError(text) from cause


def test_an_error_is_told_by_types_and_frames() -> None:
    with pytest.raises(ValueError, match="row") as first:
        fail(ROW)
    with pytest.raises(ValueError, match="DETAIL") as second:
        fail(DETAIL, first.value)
    told = without_values(second.value)
    assert told.count("builtins.ValueError") == 2
    assert "caused by" in told
    assert told.count("in fail") == 2
    assert "hunter2" not in told


def test_a_loop_of_causes_has_an_end() -> None:
    one, other = ValueError("a"), KeyError("b")
    one.__cause__, other.__cause__ = other, one
    assert without_values(one).split("\n") == ["builtins.ValueError", "caused by builtins.KeyError"]
