"""The stubs in clients/longshore/v1 are what `make proto` writes today."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.layout.tree import GENERATED, ROOT, pyproject


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stubs")
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL"}}
    subprocess.run(
        ["make", "proto", f"PROTO_OUT={out}", "--assume-old=.venv/.installed"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    return out / "longshore/v1"


def test_stubs_are_fresh(fresh: Path) -> None:
    wanted = {path.name: path.read_text() for path in fresh.iterdir()}
    there = {
        path.name: path.read_text()
        for path in GENERATED.iterdir()
        if path.is_file() and path.name != "__init__.py"
    }
    assert sorted(there) == sorted(wanted), "run make proto; delete what no proto makes any more"
    assert [name for name in wanted if there[name] != wanted[name]] == [], "run make proto"


def test_only_services_have_service_stubs() -> None:
    names = {path.name for path in GENERATED.glob("*_pb2_grpc.py")}
    protos = {path.stem for path in (ROOT / "protos/longshore/v1").glob("*_service.proto")}
    assert names == {f"{proto}_pb2_grpc.py" for proto in protos}


def test_declared_minimums_are_what_the_stubs_accept() -> None:
    """Stubs refuse a runtime older than their generator, when they are imported."""
    grpc_stub = (GENERATED / "job_service_pb2_grpc.py").read_text()
    pb_stub = (GENERATED / "job_pb2.py").read_text()
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", grpc_stub)
    protobuf = re.search(r"^# Protobuf Python Version: ([\d.]+)", pb_stub, re.MULTILINE)
    assert grpcio and protobuf

    dependencies = pyproject()["project"]["dependencies"]
    assert f"grpcio>={grpcio[1]}" in dependencies
    assert f"protobuf>={protobuf[1]}" in dependencies
