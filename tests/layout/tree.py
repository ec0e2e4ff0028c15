"""The checkout as the layout tests see it: folders, packages, sources, tracked files."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "clients": "longshore",
    "store": "longshore_store",
    "server": "longshore_server",
    "scheduler": "longshore_scheduler",
    "cpu_workers": "longshore_cpu_workers",
    "gpu_workers": "longshore_gpu_workers",
    "embedded": "longshore_embedded",
}
"""Folder → the one package in it."""

GENERATED = ROOT / "clients/longshore/v1"


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources(*folders: str) -> list[Path]:
    """Handwritten Python files under the folders, in order."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.parents)


def imported(path: Path) -> set[str]:
    """The full names of what a file imports, `from x import y` as x.y."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_texts() -> dict[str, str]:
    """Every text file that git tracks or would track, by path; skips where there is no git."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    texts = {}
    for name in sorted(set(listing.split("\0")) - {""}):
        try:
            texts[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # binary, or deleted and not committed yet
    return texts
