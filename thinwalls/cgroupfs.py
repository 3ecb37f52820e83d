"""What the kernel calls the files of a cgroup, in each of its two versions: the table of stage 4, and of its graders.

Sources: cgroups(7); in the kernel's documentation admin-guide/cgroup-v1 (memory, pids, cpuacct), scheduler/sched-bwc,
and admin-guide/cgroup-v2.
"""

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

TOP = "/sys/fs/cgroup"
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")  # v2 has no cpuacct: there, cpu counts as well
PERIOD = 100_000  # microseconds; a quota of processor time is renewed so often


@dataclass(frozen=True)
class File:
    """A file of a cgroup: which controller's it is, its name, and how amounts stand in it.

    text: what to write is text.format(amount). key: what to read is the number in the line whose first word this is;
    "": the file is one number. unit: that number times this is bytes, seconds or processes.
    """

    controller: str
    name: str
    text: str = "{}"
    key: str = ""
    unit: float = 1


FILES = {
    "v1": {
        "memory": File("memory", "memory.limit_in_bytes"),
        "swap": File("memory", "memory.memsw.limit_in_bytes"),  # memory and swap together: never less than "memory"
        "pids": File("pids", "pids.max"),
        "quota": File("cpu", "cpu.cfs_quota_us"),  # microseconds in each PERIOD
        "memory kills": File("memory", "memory.oom_control", key="oom_kill"),
        "peak memory": File("memory", "memory.max_usage_in_bytes"),
        "cpu time": File("cpuacct", "cpuacct.usage", unit=1e-9),
        "throttled time": File("cpu", "cpu.stat", key="throttled_time", unit=1e-9),
        "processes": File("pids", "pids.current"),
        "refused forks": File("pids", "pids.events", key="max"),
    },
    "v2": {
        "memory": File("memory", "memory.max"),
        "swap": File("memory", "memory.swap.max", text="0"),  # swap alone
        "pids": File("pids", "pids.max"),
        "quota": File("cpu", "cpu.max", text=f"{{}} {PERIOD}"),
        "memory kills": File("memory", "memory.events", key="oom_kill"),
        "peak memory": File("memory", "memory.peak"),
        "cpu time": File("cpu", "cpu.stat", key="usage_usec", unit=1e-6),
        "throttled time": File("cpu", "cpu.stat", key="throttled_usec", unit=1e-6),
        "processes": File("pids", "pids.current"),
        "refused forks": File("pids", "pids.events", key="max"),
    },
}


def version(parent: str = TOP) -> str:
    """Which version the cgroups at ``parent`` are of: "v1" or "v2"."""
    return "v2" if os.path.exists(f"{parent}/cgroup.controllers") else "v1"


def directory(parent: str, controller: str, name: str) -> Path:
    """Where the cgroup ``name`` below ``parent`` is: on v1 each controller has a tree of its own, on v2 there is one."""
    return Path(parent, controller if version(parent) == "v1" else "", name)


def remove_everywhere(name: str, patience: float = 10) -> None:
    """Remove the cgroup of that name at the top of each tree of cgroups, with those below it; nothing, where there is none.

    An engine's supervisor, such as podman's conmon(8), ends a moment after the container, and its group is busy until
    then: for that there are so many seconds. Raises OSError.
    """
    deadline = time.monotonic() + patience
    tops = (TOP, *(each.path for each in os.scandir(TOP) if each.is_dir(follow_symlinks=False)))
    for top in (each for each in tops if os.path.exists(f"{each}/cgroup.procs")):  # no tmpfs, which may cover one
        for below, _, _ in os.walk(f"{top}/{name}", topdown=False):
            while os.path.isdir(below):
                try:
                    os.rmdir(below)
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
