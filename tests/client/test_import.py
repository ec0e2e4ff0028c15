"""What `import longshore` costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import longshore

HEAVY = ("grpc", "ray", "sqlalchemy", "pydantic", "google.protobuf")


def loaded_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_package_imports_nothing_heavy() -> None:
    assert loaded_after("import longshore") == set()


def test_errors_and_up_options_import_nothing_heavy() -> None:
    assert loaded_after("from longshore import JobFailed") == set()
    assert loaded_after("from longshore.cli.up import UpOptions") == set()


def test_a_client_needs_neither_pydantic_nor_the_services() -> None:
    assert loaded_after("from longshore import Client, job_spec") == {"grpc", "google.protobuf"}


def test_up_waits_for_nothing_that_it_does_not_use() -> None:
    assert loaded_after("import longshore.cli.app") == set()


@pytest.mark.parametrize("name", longshore.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(longshore, name).__name__ == name or name == "task"
    assert name in dir(longshore)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Batch'"):
        _ = longshore.Batch
