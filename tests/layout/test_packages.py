"""One uniquely named package in each folder, and every tool knows the same list."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.layout.tree import PACKAGES, ROOT, pyproject, relative

PROTOS = sorted((ROOT / "protos/longshore").rglob("*.proto"))
PATHS = [f"{folder}/{package}" for folder, package in PACKAGES.items()]


@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_a_folder_holds_its_package_and_nothing_else(folder: str, package: str) -> None:
    inside = {path.name for path in (ROOT / folder).iterdir()} - {"__pycache__"}
    assert inside == {package}


@pytest.mark.parametrize("path", PATHS)
def test_a_package_is_regular_and_typed(path: str) -> None:
    assert (ROOT / path / "__init__.py").is_file()
    assert (ROOT / path / "py.typed").is_file()


def test_no_modules_lie_in_the_root() -> None:
    assert [relative(path) for path in ROOT.glob("*.py")] == []


def test_every_tool_knows_every_package() -> None:
    tool = pyproject()["tool"]
    mypy_path = [path.partition("/")[2] for path in tool["mypy"]["mypy_path"].split(":")]
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    listed = next(line for line in makefile.splitlines() if line.startswith("PACKAGES :="))

    assert tool["hatch"]["build"]["targets"]["wheel"]["packages"] == [*PATHS, "protos/longshore"]
    assert set(PACKAGES) <= set(tool["hatch"]["build"]["targets"]["sdist"]["include"])
    assert tool["ruff"]["src"] == [*PACKAGES, "."]
    assert mypy_path == [*PACKAGES, ""]
    assert set(tool["importlinter"]["root_packages"]) == set(PACKAGES.values())
    assert listed.split()[2:] == PATHS


def test_the_wheel_holds_every_file_of_every_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    expected = {
        path.relative_to(ROOT / folder).as_posix()
        for folder, package in PACKAGES.items()
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {path.relative_to(ROOT / "protos").as_posix() for path in PROTOS}
    assert packed == expected
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= packed


def test_the_sdist_holds_the_protos(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {relative(path) for path in PROTOS} <= packed


def test_importing_the_client_stays_light() -> None:
    probe = (
        "import sys, longshore; "
        "print(*sorted({'ray', 'sqlalchemy', 'grpc'}.intersection(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
