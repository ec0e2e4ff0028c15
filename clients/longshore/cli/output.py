"""What goes to the terminal: tables for people, plain lines for pipes, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message

# Registers the details of errors, so that an Any that carries one can be shown.
from google.rpc import error_details_pb2  # noqa: F401
from rich.console import Console

from longshore.cli import tables
from longshore.cli.tables import Columns
from longshore.errors import LimitExceeded, LongshoreError, RequestError

T = TypeVar("T", bound=Message)


def to_json(message: Message) -> dict[str, Any]:
    """A message as a dict: protobuf JSON, under the field names of the .proto files."""
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except TypeError:
        # A detail of an error has a type that only a newer server knows.
        stripped = type(message)()
        stripped.CopyFrom(message)
        _strip_details(stripped)
        return json_format.MessageToDict(stripped, preserving_proto_field_name=True)


def _strip_details(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else [value]:
            if part.DESCRIPTOR.full_name == "google.rpc.Status":
                part.ClearField("details")
            _strip_details(part)


class Output:
    """One command's way to its reader.

    Attributes:
        json: True writes one JSON document a line.
        wide: True shows every column of a table, uncut.
        out: the standard output.
        err: the standard error.
    """

    def __init__(self, *, as_json: bool, wide: bool = False) -> None:
        self.json = as_json
        self.wide = wide
        # No markup: a label may well contain square brackets.
        self.out = Console(markup=False, highlight=False, emoji=False)
        self.err = Console(markup=False, highlight=False, emoji=False, stderr=True)

    @property
    def live(self) -> bool:
        """True where a person looks at a terminal."""
        return self.out.is_terminal and not self.json

    def line(self, text: str) -> None:
        """One line to the standard output."""
        typer.echo(text)

    def note(self, text: str) -> None:
        """One line for people who look on; to the standard error, never with --json."""
        if not self.json and self.err.is_terminal:
            self.err.print(text, style="dim")

    def tell(self, text: str) -> None:
        """One line that also a program's log should hold; to the standard error, as JSON or not."""
        typer.echo(json.dumps({"note": text}) if self.json else f"longshore: {text}", err=True)

    def document(self, value: dict[str, Any]) -> None:
        """One JSON document on one line."""
        typer.echo(json.dumps(value, ensure_ascii=False))

    def show(self, columns: Columns[T], messages: Iterable[T]) -> None:
        """Messages as a table, as lines of cells between tabs, or as JSON."""
        if self.json:
            for message in messages:
                self.document(to_json(message))
        elif self.live:
            self._table(columns, messages)
        else:
            self.line("\t".join(column.title for column in columns))
            for message in messages:
                self.line("\t".join(column.text(message) for column in columns))

    async def show_first(self, columns: Columns[T], messages: AsyncIterator[T], limit: int) -> None:
        """The first of a list as `show` does, all of them if limit is 0; says if there are more.

        JSON goes out as it comes in, so that a list of any length takes little memory.
        """
        if self.json:
            async for message in _at_most(limit, messages):
                self.document(to_json(message))
        else:
            self.show(columns, [message async for message in _at_most(limit, messages)])
        if limit and await anext(messages, None) is not None:
            self.tell(f"there are more than these {limit}: --limit N shows more, --all shows all")

    def _table(self, columns: Columns[T], messages: Iterable[T]) -> None:
        head, *rows = tables.rows(columns, messages, None if self.wide else self.out.width)
        self.out.print(head, style="bold", soft_wrap=True)
        for row in rows:
            self.out.print(row, soft_wrap=True)

    def error(self, error: LongshoreError) -> None:
        """An expected error: one line and one for each bad field, or one JSON object."""
        if self.json:
            typer.echo(json.dumps({"error": describe(error)}, ensure_ascii=False), err=True)
            return
        typer.echo(f"longshore: {_one_line(str(error))}", err=True)
        for field, text in violations(error):
            typer.echo(f"  {field}: {_one_line(text)}", err=True)


def violations(error: LongshoreError) -> list[tuple[str, str]]:
    """What is wrong in particular; none where the message says the only one in the same words."""
    if not isinstance(error, RequestError):
        return []
    found = [(field, text) for field, text in error.violations if text != str(error)]
    if len(found) == 1 and f"{found[0][0]}: {found[0][1]}" == str(error):
        return []
    return found


def describe(error: LongshoreError) -> dict[str, Any]:
    """An error as JSON: type, code, reason, message, metadata, and what its type adds."""
    described: dict[str, Any] = {
        "type": type(error).__name__,
        "code": error.code,
        "reason": error.reason,
        "message": str(error),
        "metadata": error.metadata,
    }
    if isinstance(error, RequestError):
        described["violations"] = [
            {"field": field, "description": text} for field, text in error.violations
        ]
    if isinstance(error, LimitExceeded):
        described["retry_after"] = error.retry_after
    return described


async def _at_most(limit: int, messages: AsyncIterator[T]) -> AsyncIterator[T]:
    taken = 0
    async for message in messages:
        yield message
        taken += 1
        if taken == limit:
            return


def _one_line(text: str) -> str:
    return " ".join(text.split())
