"""The units, the compose file and the Dockerfile, held against the programs they start."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types; read as plain dicts

from longshore.cli import up
from longshore_scheduler import main as scheduler
from longshore_server import main as server
from longshore_store.settings import load_settings, scheduler_conflicts
from tests.layout.tree import ROOT, pyproject

DEPLOY = ROOT / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
PROGRAMS = {
    "longshore-server": server.command,
    "longshore-scheduler": scheduler.command,
    "up": up.up,
}


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def require_options(words: list[str]) -> None:
    """Every option of a command line is one of its program."""
    program = Path(words[0]).name
    command = PROGRAMS.get(words[1] if program == "longshore" else program)
    if command is None:
        return
    known = {"--" + name.replace("_", "-") for name in command.__annotations__}
    assert {word for word in words if word.startswith("--")} <= known


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_its_program_again_whatever_ends_it(path: Path) -> None:
    service = unit(path)["Service"]
    assert service["Restart"] == "always"
    assert service["User"] == "longshore"
    assert service["NoNewPrivileges"] == "yes"
    assert service["UMask"] == "0077"
    assert unit(path)["Unit"]["StartLimitIntervalSec"] == "0", "an outage is longer than five tries"
    require_options(shlex.split(service["ExecStart"]))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_a_unit(path: Path, tmp_path: Path) -> None:
    text = path.read_text().replace("/opt/longshore/bin/", f"{Path(sys.executable).parent}/")
    copy = tmp_path / path.name.replace("@", "@7233")
    copy.write_text(re.sub(r" longshore-ray\.service$", "", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if path.name.partition("@")[0] in line]
    assert said == []


def test_the_compose_file_restarts_servers_and_schedulers() -> None:
    services = compose()["services"]
    for name in ("server", "scheduler", "ray", "postgres", "redis"):
        assert services[name]["restart"] == "always", name
    assert services["server"]["deploy"]["replicas"] == 2
    assert services["scheduler"]["deploy"]["replicas"] == 2
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])
    require_options(services["server"]["command"])
    *_, last = services["scheduler"]["command"][-1].strip().splitlines()
    require_options(shlex.split(last.strip().removeprefix("exec ")))
    waited = {name for each in services.values() for name in each.get("depends_on", {})}
    assert waited <= services.keys()


def test_its_variables_are_those_of_the_programs() -> None:
    given = set(compose()["x-longshore"]["environment"])
    given |= set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "longshore.env").read_text(), re.MULTILINE))
    source = "".join(Path(module.__file__ or "").read_text() for module in (server, scheduler))
    source += (ROOT / "clients/longshore/cli/log_options.py").read_text()
    assert {name for name in given - {"RAY_START"} if f'"{name}"' not in source} == set()


def test_its_settings_are_right() -> None:
    settings = load_settings(DEPLOY / "longshore.toml")
    assert scheduler_conflicts(settings) == []


def test_the_image_has_every_package() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for words in copied for name in words.split()}
    assert all((ROOT / name).exists() for name in names)
    built = pyproject()["tool"]["hatch"]["build"]["targets"]
    assert {path.split("/")[0] for path in built["wheel"]["packages"]} <= names
    assert "requirements/all.txt" in names
