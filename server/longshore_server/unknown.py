"""Fields that this release does not know: refused where ignoring one would change what is run."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from longshore_server.refusals import Faults

REMEDY = "which this release does not know: leave it out, or call a newer server"
MOST_NUMBERS = 16


def check_known(message: Message, at: str, faults: Faults) -> None:
    """The fields of this message alone. at: its path with the dot, or nothing."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = {unknown[place].field_number for place in range(len(unknown))}
        for number in sorted(numbers)[:MOST_NUMBERS]:
            faults.add(f"{at}{number}", f"is a field of number {number}, {REMEDY}")


def check_all_known(message: Message, at: str, faults: Faults) -> None:
    """The fields of this message and of all inside it."""
    check_known(message, at, faults)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key, one in value.items():
                    check_all_known(one, f"{at}{field.name}[{key[:64]!r}].", faults)
        elif field.is_repeated:
            for place, one in enumerate(value):
                check_all_known(one, f"{at}{field.name}[{place}].", faults)
        else:
            check_all_known(value, f"{at}{field.name}.", faults)
