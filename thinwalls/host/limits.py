"""The cgroup that bounds what one keeper's hosts may take together: memory, processes, processor time.

The keeper enters it once and every host is born inside, for moving a process into a v1 memory cgroup costs
milliseconds (up to 35 were seen) and being born there costs none. The freezer is never handed to a host.
See cgroups(7), and in the kernel's documentation admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

import contextlib
import os
import re
from pathlib import Path

MEMORY = 512 * 2**20  # bytes, swap included
PROCESSES = 512
_PREFIX = "thinwalls-"
_V1 = ("memory", "pids", "cpu", "cpuacct")


class Group:
    """A cgroup (one directory per v1 controller, one on v2) named after the process that made it."""

    def __init__(self, directories: dict[str, Path], home: dict[str, Path]):
        self.directories = directories  # controller (v2: "") -> directory we made
        self._home = home  # where this process was before
        self.version = "v2" if "" in directories else "v1"

    def enter(self) -> None:
        """Move this process, and so all children it will have, into the group."""
        for directory in self.directories.values():
            (directory / "cgroup.procs").write_text(str(os.getpid()))

    def killed_for_memory(self) -> int:
        """How many processes the kernel has killed in this group because it ran out of memory."""
        name = "memory.events" if self.version == "v2" else "memory.oom_control"
        text = (self.directories.get("") or self.directories["memory"]).joinpath(name).read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def delegate(self, name: str, uid: int) -> dict[str, str]:
        """Hand a group below this one to the user ``uid`` of this machine; gives its directory per v1 controller.

        Who is given a directory may make groups in it and move own processes there, and cannot lift the limits
        above it. On v2 a process could not be moved in from outside: nothing is handed over there yet.
        """
        handed = {}
        for controller, directory in self.directories.items():
            if controller:
                below = directory / name
                below.mkdir()
                for path in (below, below / "cgroup.procs", below / "tasks"):
                    os.chown(path, uid, uid)
                handed[controller] = str(below)
        return handed

    def take_back(self, name: str) -> None:
        """Remove a group that was handed over, with all that was made in it; its processes must have ended."""
        for directory in self.directories.values():
            _remove(directory / name)

    def remove(self) -> None:
        """Leave the group and remove it; its other processes must have ended."""
        for controller, directory in self.directories.items():
            with contextlib.suppress(OSError):
                (self._home[controller] / "cgroup.procs").write_text(str(os.getpid()))
            _remove(directory)


def make() -> Group | None:
    """A new bounded group below this process's own (v1) or the top (v2); None where we may not make one."""
    home = _own_directories()
    if not home:
        return None
    made: dict[str, Path] = {}
    try:
        for controller, parent in home.items():
            directory = parent / f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}"
            directory.mkdir()
            made[controller] = directory
        if "" in made:
            _write(made[""] / "memory.max", MEMORY)
            _write(made[""] / "pids.max", PROCESSES)
            with contextlib.suppress(OSError):  # absent where the kernel does not account for swap
                _write(made[""] / "memory.swap.max", 0)
        else:
            _write(made["memory"] / "memory.limit_in_bytes", MEMORY)
            _write(made["pids"] / "pids.max", PROCESSES)
            with contextlib.suppress(OSError):
                _write(made["memory"] / "memory.memsw.limit_in_bytes", MEMORY)
        group = Group(made, home)
        group.enter()
        return group
    except OSError:
        Group(made, home).remove()
        return None


def sweep() -> None:
    """Remove the groups of keepers that were killed before they could do so themselves."""
    for parent in _own_directories().values():
        for directory in parent.glob(_PREFIX + "*"):
            pid, _, started = directory.name.removeprefix(_PREFIX).partition("-")
            if pid.isdigit() and _start_time(int(pid)) != started:
                with contextlib.suppress(OSError):
                    _remove(directory)


def _own_directories() -> dict[str, Path]:
    """Where this process may be allowed to make a group: controller -> directory; {} where there is no cgroupfs."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():  # v2 alone
        own = Path(f"{root}{paths.get('', '/')}")
        # Only the top, or a directory that was delegated, may have both processes and controllers below it.
        return {"": root if os.access(root, os.W_OK) else own}
    directories = {name: Path(f"{root}/{name}{paths[name]}") for name in _V1 if name in paths}
    return directories if len(directories) == len(_V1) and all(d.is_dir() for d in directories.values()) else {}


def _remove(directory: Path) -> None:
    """Remove a cgroup and those below it, deepest first (rmdir: the files in it are the kernel's)."""
    for below, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(below)


def _start_time(pid: int) -> str:
    """When the process began, in ticks after boot (field 22 of proc_pid_stat(5)); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _write(path: Path, value: int) -> None:
    path.write_text(str(value))
