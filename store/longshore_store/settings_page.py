"""`python -m longshore_store.settings_page`: docs/settings.md, made from the models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from longshore_store.settings import Settings

HEAD = """\
# Settings

Made by `python -m longshore_store.settings_page > docs/settings.md` from the models in
`store/longshore_store/settings.py`: change those.

A TOML file, named by `--config` or `LONGSHORE_CONFIG`; every setting has a default. `longshore
check-config FILE` tells every mistake in one at once. A time is a number of seconds or a duration
such as `"1h30m"`, in `[retention]` a number of days or a duration; a size is a number of bytes or
such as `"2GiB"`.

```toml
cluster = "video"
tasks = ["my_company.tasks"]

[queues.short]
attempt_timeout = "30s"
overflow_to = "long"

[queues.long]
attempt_timeout = "4h"

[pools.cpu]
cpu = 4
memory = "8GiB"
maximum_workers = 8

[retention]
succeeded = "36h"
```
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, _section("Top level", Settings, "")]
    for name, field in Settings.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            of_names = get_origin(field.annotation) is dict
            title = f"[{name}.NAME]" if of_names else f"[{name}]"
            parts.append(_section(f"`{title}`", inner, title))
    return "\n".join(parts)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting is, by itself or for each name."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def _section(heading: str, model: type[BaseModel], title: str) -> str:
    about = " ".join((model.__doc__ or "").split())
    rows = [row for name, field in model.model_fields.items() if (row := _row(name, field, title))]
    table = ["| setting | default | values | |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {heading}", "", about, "", *table, ""])


def _row(name: str, field: FieldInfo, title: str) -> str:
    if not title and section_of(field.annotation) and get_origin(field.annotation) is not dict:
        return ""  # has a section of its own, and says nothing more
    text = " ".join((field.description or "").split())
    return f"| `{name}` | {_default(name, field)} | {_range(name, field)} | {text} |"


def _default(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"`{key}`" for key in value) or "none"
    if isinstance(value, tuple):
        return "none" if not value else ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return _number(name, value) if isinstance(value, int | float) else str(value) or "none"


def _range(name: str, field: FieldInfo) -> str:
    """The bounds or the words that a value is held to."""
    words = [f"`{word}`" for word in get_args(field.annotation) if isinstance(word, str)]
    return ", ".join(words or _bounds(name, field))


def _bounds(name: str, field: FieldInfo) -> Iterator[str]:
    metadata = list(field.metadata)
    for part in get_args(field.annotation):  # such as of Annotated[float, ...] | None
        metadata += getattr(part, "__metadata__", ())
    found = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
    for words, attribute in (("above", "gt"), ("at least", "ge"), ("at most", "le")):
        for bound in found:
            if (value := getattr(bound, attribute, None)) is not None:
                yield f"{words} {_number(name, value)}"


def _number(name: str, value: float) -> str:
    if name.endswith("memory") and value:
        whole = value % 1024**3 == 0
        return f"{value / 1024**3:,.{0 if whole else 1}f} GiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


if __name__ == "__main__":
    sys.stdout.write(page())
