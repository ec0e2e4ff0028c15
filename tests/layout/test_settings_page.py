"""docs/settings.md: made from the models, and complete."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from pydantic import BaseModel

from longshore_store import settings_page
from longshore_store.settings import Settings, parse_settings
from tests.layout.tree import ROOT


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Settings.model_fields.items():
        if (model := settings_page.section_of(field.annotation)) is not None:
            yield name, model


def test_the_page_of_settings_is_current() -> None:
    renew = "renew it: python -m longshore_store.settings_page > docs/settings.md"
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page.page(), renew


def test_every_setting_is_described_by_a_docstring_below_it() -> None:
    undescribed = [
        f"{section}.{name}"
        for section, model in sections()
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert undescribed == []


def test_the_example_is_right() -> None:
    example = settings_page.page().partition("```toml")[2].partition("```")[0]
    assert parse_settings(tomllib.loads(example)).queues["short"].overflow_to == "long"
