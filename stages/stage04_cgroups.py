"""Stage 4: cgroups.

A namespace decides what a process sees. It does not decide how much it takes: behind all the walls so far, a loop
that forks or a list that grows takes the machine down with it. A cgroup is a set of processes with an account:
whatever they take together is counted, and a count can have a limit.

Its interface is a file system: a group is a directory, a limit is a file, and there are two versions of it. On v1
every controller has a tree of its own; on v2 there is one tree. The table in thinwalls/cgroupfs.py knows the names in
both, so that the code need be written only once. What you write for the version that this machine does not have is not
tried here: compare it with `./walls solution 4`.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinwalls import cgroupfs, linux
from thinwalls.cgroupfs import CONTROLLERS, FILES, PERIOD, TOP
from thinwalls.wall import Wall

PATIENCE = 10  # seconds that the end of a cgroup may take
MAX_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


@dataclass(frozen=True)
class Usage:
    """What a cgroup has taken: memory: bytes, at the most; cpu, throttled: seconds; processes: how many at the end."""

    memory: int = 0
    cpu: float = 0
    throttled: float = 0
    processes: int = 0


class Cgroup(Wall):
    """A cgroup of the container's own. The first wall of all: so the last to be closed, when all else has ended."""

    def __init__(self, memory: str = "", pids: str = "", cpus: str = "", parent: str = TOP):
        """memory, pids, cpus: limits as people write them ("64m", "32", "0.5"); "": none. parent: below which cgroup.

        The parent is a cgroup that was handed to us: on v1 it has a directory for each of CONTROLLERS, on v2 it is one
        directory with no processes in it. A limit that makes no sense is a ValueError, before anything has started.
        """
        self.memory = parse_size(memory) if memory else None
        self.pids = parse_count(pids) if pids else None
        self.quota = parse_cpus(cpus) if cpus else None
        self.parent = parent
        self.version = cgroupfs.version(parent)
        self.name = f"container-{os.urandom(4).hex()}"
        self.out_of_memory = False  # known after close()
        self.usage = Usage()  # known after close()

    def directory(self, controller: str) -> Path:
        """Where the cgroup is, for a controller."""
        return cgroupfs.directory(self.parent, controller, self.name)

    def file(self, what: str) -> Path:
        """Where a file of FILES is."""
        file = FILES[self.version][what]
        return self.directory(file.controller) / file.name

    def outside(self, pid: int) -> None:
        """Make the cgroup, limit it, and put the waiting child in, in this order: it must never run without limits.

        Each task adds its call: create (4.1), limit_memory (4.2), limit_pids (4.3), limit_cpu (4.4), enter (4.1).
        """

    def close(self) -> None:
        """Read what is to be known, and end the cgroup.

        Called after the end of the program, and after a failed start too: then perhaps nothing was made. Each task adds
        its line: self.out_of_memory (4.2) and self.usage (4.6) are set, then remove() (4.5) is called.
        """

    def create(self) -> None:
        """Task 4.1: make the cgroup. After that its directory() exists for each of CONTROLLERS.

        On v1 that is all: a directory for each. On v2 it is one directory, and the parent decides which controllers
        there are in it: of CONTROLLERS, all that are in the parent's cgroup.controllers must be enabled in its
        cgroup.subtree_control, before a limit can be set. Raises the OSError of what fails.

        Read: cgroups(7), "Cgroups version 1" and "Cgroups v2 subtree control".
        """
        raise NotImplementedError("task 4.1 is not built yet")

    def enter(self, pid: int) -> None:
        """Task 4.1: put the process ``pid`` into the cgroup, for every controller. What it forks will be in it too.

        Read: cgroups(7) on cgroup.procs.
        """
        raise NotImplementedError("task 4.1 is not built yet")

    def limit_memory(self) -> None:
        """Task 4.2: let the cgroup have no more than self.memory bytes, swap included (None: no limit).

        FILES has two files for it, "memory" and "swap". Where the kernel does not count swap, the second is not there.

        Read: in the kernel's documentation, admin-guide/cgroup-v1/memory, 2.4 and 5, and "Memory" in admin-guide/cgroup-v2.
        """
        raise NotImplementedError("task 4.2 is not built yet")

    def killed_for_memory(self) -> bool:
        """Task 4.2: whether the kernel has killed a process of the cgroup because it was out of memory.

        The exit status cannot say it: 137 is the status of any program that was killed. (And a count of how often the
        limit was met, such as failcnt, cannot either: mostly the kernel finds some memory to take back, and nobody
        dies.) False for a cgroup that was never made: task 4.5 has starts that fail before outside() is called.
        """
        raise NotImplementedError("task 4.2 is not built yet")

    def limit_pids(self) -> None:
        """Task 4.3: let there be no more than self.pids processes and threads in the cgroup (None: no limit).

        Read: in the kernel's documentation, admin-guide/cgroup-v1/pids, or "PID" in admin-guide/cgroup-v2.
        """
        raise NotImplementedError("task 4.3 is not built yet")

    def limit_cpu(self) -> None:
        """Task 4.4: let the cgroup run for no more than self.quota microseconds in each PERIOD (None: no limit).

        Read: in the kernel's documentation, scheduler/sched-bwc, or "CPU" in admin-guide/cgroup-v2 on cpu.max.
        """
        raise NotImplementedError("task 4.4 is not built yet")

    def remove(self) -> None:
        """Task 4.5: kill every process that is still in the cgroup, and remove it, with the cgroups made below it.

        Returns when nothing of it is left; at once where nothing was made. Raises the OSError of rmdir if after
        PATIENCE seconds it is still busy. Some of it may have been frozen, or go on forking while you are killing.

        Read: cgroups(7), "Removing a cgroup"; os.walk, topdown; in the kernel's documentation admin-guide/cgroup-v2 on
        cgroup.kill and cgroup.freeze.
        """
        raise NotImplementedError("task 4.5 is not built yet")

    def measure(self) -> Usage:
        """Task 4.6 (bonus): what the cgroup has taken so far, from "peak memory", "cpu time", "throttled time", "processes".

        All 0 for a cgroup that was never made. A number that this kernel does not offer is 0.
        """
        raise NotImplementedError("task 4.6 is not built yet")


class OneUserNamespace(Wall):
    """While the container runs, no new user namespace can be made: in one, whoever makes it has every capability again.

    The setting is one of the user namespace that we are in, so it holds for the whole machine, not for the container
    alone; a container with a user namespace of its own would have its own. Two that run at once must not use it.
    """

    def outside(self, pid: int) -> None:
        """Task 4.7: allow no new user namespaces, and remember how many were allowed before.

        Read: /proc/sys/user in namespaces(7), MAX_USER_NAMESPACES.
        """
        raise NotImplementedError("task 4.7 is not built yet")

    def close(self) -> None:
        """Task 4.7: allow as many as before; nothing, if outside() was never called."""
        raise NotImplementedError("task 4.7 is not built yet")


def parse_size(text: str) -> int:
    """Task 4.2: a size as people write it, in bytes: "4096", "512k", "64m", "2g" (or "b", or capitals), powers of 1024.

    Raises ValueError for anything else: a fraction, a sign, a blank, another unit, letters or digits beyond ASCII, 0.
    """
    raise NotImplementedError("task 4.2 is not built yet")


def parse_count(text: str) -> int:
    """Task 4.3: a number of processes: "32". Raises ValueError for anything but ASCII digits, and for 0."""
    raise NotImplementedError("task 4.3 is not built yet")


def parse_cpus(text: str) -> int:
    """Task 4.4: a number of processors, as microseconds in each PERIOD: "2" is 200000, "0.5" is 50000 ("1.25", ".5").

    Raises ValueError for anything else: a sign, an exponent, "nan", digits beyond ASCII, a point with nothing after it
    ("1."), and less than 0.01, which the kernel refuses.
    """
    raise NotImplementedError("task 4.4 is not built yet")


def raise_limit(limit: int) -> None:
    """Task 4.7: the attack. Called inside a container of stages 2 to 4, as uid 0, before exec: raise your own limit.

    When it returns, the cgroup that the calling process is in may have ``limit`` bytes of memory (on v1 also with swap).
    The container has no cgroups in its /sys; but /proc/self/cgroup tells where it is, and uid 0 may mount what it likes;
    /tmp may be written to, so a directory to mount on can be made there.
    Works for both versions: on v1 /proc/self/cgroup has a line whose controllers are or include "memory", on v2 not.

    Read: cgroups(7), "Mounting v1 controllers" and "/proc files"; linux.mount with the types cgroup and cgroup2.
    """
    raise NotImplementedError("task 4.7 is not built yet")
