"""The pool of addresses: no two alike at a time, and each given back, however its holder ended."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from thinwalls import addresses, course, linux

HOLDER = """
import sys
from thinwalls import addresses
held = [addresses.lease(sys.argv[1]) for _ in range(int(sys.argv[2]))]
print(*(each.number for each in held), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pool(tmp_path):
    return str(tmp_path / "pool")


@contextlib.contextmanager
def holder(pool, how_many=1):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, pool, str(how_many)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=course.ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def numbers(process):
    return [int(word) for word in process.stdout.readline().split()]


def test_an_address_is_leased_to_one_at_a_time_and_then_to_the_next(pool):
    first, second = addresses.lease(pool), addresses.lease(pool)
    assert (first.address, first.mac, first.name) == ("10.57.0.2", "02:57:0a:39:00:02", "walls2")
    assert second.address == "10.57.0.3"
    assert addresses.in_use(pool) == {2, 3}
    first.give_back()
    first.give_back()
    assert addresses.in_use(pool) == {3}
    third = addresses.lease(pool)
    assert third.number == 2
    del third
    assert addresses.in_use(pool) == {3}
    second.give_back()
    assert addresses.in_use(pool) == set()


def test_processes_that_start_at_once_get_different_addresses(pool):
    with contextlib.ExitStack() as holders:
        each = [holders.enter_context(holder(pool, 10)) for _ in range(6)]
        leased = [number for process in each for number in numbers(process)]
        assert sorted(leased) == list(range(2, 62))
        assert addresses.in_use(pool) == set(leased)


def test_an_address_comes_back_when_its_holder_is_killed(pool):
    with holder(pool, 3) as process:
        assert numbers(process) == [2, 3, 4]
        process.kill()
        process.wait()
        assert addresses.in_use(pool) == set()
        assert addresses.lease(pool).number == 2


@pytest.mark.parametrize("make_child", [os.fork, linux.clone])
def test_a_child_of_the_holder_neither_has_nor_keeps_the_lease(pool, make_child):
    reads, writes = os.pipe()
    held = addresses.lease(pool)
    pid = make_child()
    if pid == 0:
        held.give_back()
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    try:
        assert addresses.in_use(pool) == {2}, "a child may not give back what is its parent's"
        held.give_back()
        assert addresses.in_use(pool) == set(), "a child that lives on may not keep what its parent gave back"
        os.kill(pid, 0)
    finally:
        os.close(writes)
        os.close(reads)
        os.waitpid(pid, 0)


def test_a_child_that_outlives_a_killed_holder_does_not_keep_its_lease(pool):
    reads, writes = os.pipe()
    go, stay = os.pipe()
    pid = os.fork()
    if pid == 0:
        _held = addresses.lease(pool)
        if os.fork() == 0:
            os.close(stay)
            os.write(writes, b"1")
            os.read(go, 1)
            os._exit(0)
        signal.pause()
    os.read(reads, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        assert addresses.in_use(pool) == set()
    finally:
        for fd in (reads, writes, go, stay):
            os.close(fd)


def test_there_is_an_end_of_addresses_and_it_is_told(pool):
    held = [addresses.lease(pool) for _ in addresses.NUMBERS]
    with pytest.raises(OSError, match="All 253 addresses for containers are taken"):
        addresses.lease(pool)
    held.pop(100).give_back()
    assert addresses.lease(pool).number == 102


def test_nobody_leases_while_one_is_alone(pool):
    with addresses.alone(pool):
        with holder(pool) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            assert addresses.in_use(pool) == set()
