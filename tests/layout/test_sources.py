"""What is true of every handwritten file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.layout.tree import PACKAGES, ROOT, imported, relative, sources, tracked_texts

LONGEST_FILE = 450
LONGEST_FUNCTION = 70
DIALECTS = "store/longshore_store/dialects/"

# Spelt with brackets, so that this file does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.)}\]$-])/(wor[k]|roo[t])/")
REGISTRY = re.compile(r"py[p]i\.|python[h]osted|/sim[p]le\b|--(extra-)?inde[x]-url|--find[-]links")
LOCKS = ("requirements/", "pyproject.toml", "Makefile", ".ci/")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return tracked_texts()


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(), str(path))
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_files_are_short() -> None:
    lengths = {
        relative(path): len(path.read_text().splitlines())
        for path in sources(*PACKAGES, "tests", "benchmarks", "examples")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}, "split by subject"


def test_functions_are_short() -> None:
    lengths = {
        f"{relative(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources(*PACKAGES, "tests", "benchmarks", "examples")
        for node in functions(path)
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}


def test_one_package_knows_the_databases() -> None:
    """import-linter sees only top-level names of libraries, so the dialects are looked up here."""
    drivers = ("sqlalchemy.dialects", "aiosqlite", "asyncpg", "sqlite3")
    knowing = {
        relative(path)
        for path in sources(*PACKAGES)
        if any(name.startswith(drivers) for name in imported(path))
    }
    assert {path for path in knowing if not path.startswith(DIALECTS)} == set()


def test_one_package_names_the_databases() -> None:
    names = {"sqlite", "postgresql", "aiosqlite", "asyncpg"}
    naming = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
        if not relative(path).startswith(DIALECTS)
    ]
    assert naming == []


def test_no_relative_imports() -> None:
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert found == []


def test_no_second_lock_file() -> None:
    assert not (ROOT / "uv.lock").exists(), "requirements/ is the lock: make lock"


def test_no_path_of_one_machine(texts: dict[str, str]) -> None:
    assert matching(texts, MACHINE_PATH) == []


def test_no_address_of_a_registry(texts: dict[str, str]) -> None:
    assert matching(texts, REGISTRY) == [], "where packages come from is the machine's setting"


def test_what_setup_reads_names_no_network(texts: dict[str, str]) -> None:
    read = {name: text for name, text in texts.items() if name.startswith(LOCKS)}
    assert matching(read, re.compile(r"://")) == []


def matching(texts: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
