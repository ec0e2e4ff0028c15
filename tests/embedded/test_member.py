"""A member of a cluster: kept alive, ended and begun again, and gone with whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from longshore_embedded.member import Member, tethered
from tests.e2e.service import gone

LIVES = "import sys, time; print(*sys.argv[1:], flush=True); time.sleep(600)"
DEADLINE = 60.0

Make = Callable[..., Member]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes members of a small program; they are ended with the test."""
    made: list[Member] = []

    def member(program: str, *arguments: str, env: dict[str, str] | None = None) -> Member:
        command = (sys.executable, "-c", program, *arguments)
        made.append(Member(f"member-{len(made)}", command, tmp_path, env=env))
        return made[-1]

    yield member
    for each in made:
        await each.stop()


async def test_a_member_that_is_killed_is_started_again(make: Make) -> None:
    member = make(LIVES)
    await member.start()
    first = member.pid
    assert first is not None
    member.send(signal.SIGKILL)
    await until(lambda: member.pid not in (None, first))
    assert member.starts == 2


async def test_a_member_that_is_down_stays_down_until_it_is_started(make: Make) -> None:
    member = make(LIVES, "begun")
    await member.start()
    await until(lambda: member.last_words() == "begun")
    pid = member.pid
    await member.down()
    assert member.pid is None
    assert pid is not None
    gone([pid], 0)
    await asyncio.sleep(0)  # its keeper waits now, and starts nothing
    assert member.starts == 1
    await member.start()
    await until(lambda: member.pid is not None)
    assert member.starts == 2


async def test_a_stopped_member_is_gone(make: Make) -> None:
    member = make(LIVES)
    await member.start()
    pid = member.pid
    assert pid is not None
    await member.stop()
    gone([pid], 0)
    assert member.starts == 1
    await member.stop()


async def test_last_words_are_the_last_line_with_words(make: Make) -> None:
    member = make(
        "import os; print('first'); print(os.environ['WORDS'] + '\\n\\n')", env={"WORDS": "last"}
    )
    assert member.last_words() == "(nothing)"
    await member.start()
    # Where output is not buffered, there is a moment after each "first".
    await until(lambda: member.last_words() == "last")


async def test_what_an_earlier_one_of_that_name_has_said_is_not_its_word(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "member-0.log").write_text("up\n")
    member = make(LIVES, "begun")
    assert not member.has_said("up")
    assert member.last_words() == "(nothing)"
    await member.start()
    await until(lambda: member.has_said("begun"))
    assert not member.has_said("up")


async def test_a_program_that_cannot_be_started_is_said_in_one_line(tmp_path: Path) -> None:
    member = Member("none", [str(tmp_path / "none")], tmp_path)
    await member.start()
    await until(lambda: member.starts == 2)
    await member.stop()
    assert member.last_words() == f"{tmp_path / 'none'}: No such file or directory"
    assert "Traceback" not in member.log.read_text()


def test_a_member_dies_with_whoever_started_it() -> None:
    program = f"""
import subprocess, sys
from longshore_embedded.member import tethered
child = subprocess.Popen([*tethered(None), sys.executable, "-c", {LIVES!r}, "here"],
                         stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    gone([child], DEADLINE)


def test_a_member_whose_starter_is_gone_already_is_not_begun() -> None:
    tether = tethered(None)
    tether[tether.index(str(os.getpid()))] = "1"
    done = subprocess.run(
        [*tether, sys.executable, "-c", "print('begun')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
