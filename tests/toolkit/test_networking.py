"""Containers of stage 5 that start and end at the same time, and some whose launchers are killed."""

import signal

import pytest

from thinwalls import course
from thinwalls.facts import Ended, Process, descendants
from thinwalls.grading.machine import Machine
from thinwalls.host import Keeper

LAUNCH = "stage00_process.launch"
PATIENCE = 15


@pytest.fixture
def machine():
    files = {f"/course/stages/{stage.stem}.py": course.reference(stage) for stage in course.stages()}
    with Keeper() as keeper, Machine(keeper, "networking", "1", {"/course/stages/__init__.py": "", **files}) as machine:
        machine.allow(60)
        yield machine


def start(machine):
    walls = [
        machine.made("stage02_pid_namespace.Pids"),  # the first: from its inside() on nothing outlives the launcher
        machine.made("stage05_networking.Network", []),
        machine.made("stage02_pid_namespace.Init"),
    ]
    return machine.beside(LAUNCH, machine.program(["sleep", "1000"]), walls)


def cables(machine):
    return [name for name in machine.runner.links() if name not in ("lo", "walls0")]


def starting(launchers):
    """Those of which the program does not run yet."""
    return [each for each in launchers if "sleep" not in map(name, descendants(each.pid))]


def name(pid):
    try:
        return Process(pid).name()
    except Ended:
        return ""


def end(machine, launcher):
    """Kill the container's init: the launcher returns from launch(), and cleans up."""
    machine.send(next(iter(descendants(launcher.pid))), signal.SIGKILL)


def test_many_start_at_once_and_end_at_once(machine):
    launchers = [start(machine) for _ in range(8)]
    assert not machine.settles(lambda: starting(launchers), PATIENCE)
    assert sorted(cables(machine)) == [f"walls{number}" for number in range(2, 10)]
    for launcher in launchers:
        end(machine, launcher)
    assert all(launcher.ended(PATIENCE) for launcher in launchers)
    assert machine.runner.links() == ["lo"]


def test_what_killed_launchers_leave_goes_with_the_next_that_ends(machine):
    killed = [start(machine) for _ in range(3)]
    assert not machine.settles(lambda: starting(killed), PATIENCE)
    for launcher in killed:
        machine.send(launcher.pid, signal.SIGKILL)
    assert not machine.settles(lambda: cables(machine), PATIENCE), "the kernel removes the cables of the dead"
    assert "walls0" in machine.runner.links()
    last = start(machine)
    assert not machine.settles(lambda: starting([last]), PATIENCE)
    assert cables(machine) == ["walls2"]
    end(machine, last)
    assert last.ended(PATIENCE)
    assert machine.runner.links() == ["lo"]
