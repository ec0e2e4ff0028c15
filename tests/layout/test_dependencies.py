"""Each dependency has a reason, and each import is paid for by the extra that needs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.layout.tree import PACKAGES, ROOT, imported, pyproject, sources

EXTRAS = {
    "longshore": [],
    "longshore_store": ["server"],
    "longshore_server": ["server"],
    "longshore_scheduler": ["scheduler"],
    "longshore_cpu_workers": ["scheduler", "cpu"],
    "longshore_gpu_workers": ["scheduler", "cpu", "gpu"],
    "longshore_embedded": ["all", "dev-cluster"],
}
"""Package → what must be installed beside the base for every module of it to import."""

FOLDER = {package: folder for folder, package in PACKAGES.items()}

OWNERS = {
    "google.protobuf": "protobuf",  # a namespace of several distributions
    "google.rpc": "googleapis-common-protos",
    "pydantic_core": "pydantic",  # its other half: where pydantic documents some of its errors
}
"""Names whose distribution cannot be read off the first part."""


def distribution(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(extras: list[str]) -> set[str]:
    """The distributions of the base and of the extras, `longshore[...]` followed."""
    project = pyproject()["project"]
    names = {distribution(line) for line in project["dependencies"]}
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            nested = re.match(r"longshore\[(.+)]", line)
            names |= declared(nested[1].split(",")) if nested else {distribution(line)}
    return names


def third_party(path: Path) -> set[str]:
    """The first two parts of every absolute import that is neither ours nor Python's."""
    known = sys.stdlib_module_names | set(PACKAGES.values())
    parts = [name.split(".") for name in imported(path)]
    return {".".join(name[:2]) for name in parts if name[0] not in known}


@pytest.mark.parametrize("package", EXTRAS)
def test_imports_are_declared(package: str) -> None:
    installed = packages_distributions()
    allowed = declared(EXTRAS[package])
    undeclared = {
        f"{path.name} imports {name}"
        for path in sources(FOLDER[package])
        for name in third_party(path)
        if not allowed & owners(name, installed)
    }
    assert undeclared == set(), f"declare it in {EXTRAS[package] or 'the base dependencies'}"


def owners(name: str, installed: Mapping[str, Sequence[str]]) -> set[str]:
    top = name.partition(".")[0]
    if known := OWNERS.get(name, OWNERS.get(top)):
        return {known}
    return {distribution(owner) for owner in installed.get(top, ())}


def test_every_package_has_its_extras() -> None:
    assert set(EXTRAS) == set(PACKAGES.values())


def test_every_dependency_has_a_reason() -> None:
    document = pyproject()
    project = document["project"]
    groups = [
        project["dependencies"],
        document["dependency-groups"]["dev"],
        *(lines for extra, lines in project["optional-dependencies"].items() if extra != "all"),
    ]
    text = (ROOT / "pyproject.toml").read_text()
    bare = [
        line
        for group in groups
        for line in group
        if not re.search(rf'^ +"{re.escape(line)}", +# \S', text, re.MULTILINE)
    ]
    assert bare == []


@pytest.mark.parametrize("lock", ["dev", "all", "client"])
def test_locks_are_hashed_and_whole(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    pins = re.findall(r"^([a-z0-9][\w.-]*)(?:\[[\w,-]+])?==", text, re.MULTILINE)
    expected = declared(["all"]) if lock != "client" else declared([])
    if lock == "dev":
        expected |= {distribution(line) for line in pyproject()["dependency-groups"]["dev"]}

    assert expected <= {distribution(pin) for pin in pins}, "run make lock"
    assert text.count("==") >= len(pins) > 0
    assert all(
        "--hash=sha256:" in block for block in re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    )
