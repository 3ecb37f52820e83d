"""The cgroup that bounds what one keeper's hosts may take together: memory, processes, processor time.

The keeper enters it once and every host is born inside, for moving a process into a v1 memory cgroup costs
milliseconds (up to 35 were seen) and being born there costs none. The freezer is never handed to a host.
See cgroups(7), and in the kernel's documentation admin-guide/cgroup-v1 and cgroup-v2.rst.
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

MEMORY = 512 * 2**20  # bytes, swap included
PROCESSES = 512
LEAF = "machine"  # on v2: where the processes of a host are, in the group that was handed to it
_PREFIX, _LEAF, _HOME = "thinwalls-", "keeper", "home"
_TOP = Path("/sys/fs/cgroup")
_V1 = ("memory", "pids", "cpu", "cpuacct")


class Group:
    """A cgroup (one directory per v1 controller, one on v2) named after the process that made it.

    On v2 only a group without processes can have others below it that are limited (cgroups(7), "no internal
    processes"): there the keeper, and the hosts that are born with it, are in a leaf of the group.
    """

    def __init__(self, directories: dict[str, Path], home: dict[str, Path]):
        self.directories = directories  # controller (v2: "") -> directory we made
        self._home = home  # where this process was before
        self.version = "v2" if "" in directories else "v1"

    def enter(self) -> None:
        """Move this process, and so all children it will have, into the group."""
        for directory in self.directories.values():
            leaf = directory / _LEAF if self.version == "v2" else directory
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))

    def killed_for_memory(self) -> int:
        """How many processes the kernel has killed in this group because it ran out of memory.

        Those in groups that were handed over do not count: limits are tried out there.
        """
        if self.version == "v2":
            return _oom_kills(self.directories[""] / _LEAF / "memory.events")
        return _oom_kills(self.directories["memory"] / "memory.oom_control")

    def delegate(self, name: str, uid: int) -> dict[str, str]:
        """Hand a group below this one to the user ``uid`` of this machine; gives its directory per v1 controller.

        On v2 the directory has the name "", and a leaf LEAF below it, for the processes of the host. Who is given a
        directory may make groups in it and move own processes there, and cannot lift the limits above it.
        """
        handed = {}
        for controller, directory in self.directories.items():
            below = directory / name
            below.mkdir(exist_ok=True)  # v1 controllers may have one tree together
            files = ("cgroup.procs", "tasks") if controller else ("cgroup.procs", "cgroup.subtree_control")
            for path in (below, *(below / file for file in files)):
                os.chown(path, uid, uid)
            if not controller:
                leaf = below / LEAF
                leaf.mkdir()
                for path in (leaf, leaf / "cgroup.procs"):
                    os.chown(path, uid, uid)
            handed[controller] = str(below)
        return handed

    def settle(self, name: str, pid: int) -> None:
        """On v2: move a process into a group that was handed over. Only from there may its owner move it on."""
        if self.version == "v2":
            (self.directories[""] / name / "cgroup.procs").write_text(str(pid))

    def take_back(self, name: str) -> int:
        """Remove a group that was handed over, with all that was made in it; its processes must have ended.

        Gives how many processes of the host itself were killed because this whole group was out of memory.
        """
        kills = _oom_kills(self.directories[""] / name / LEAF / "memory.events") if self.version == "v2" else 0
        for directory in self.directories.values():
            _remove(directory / name)
        return kills

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
        if "" in home:
            home[""] = _leave(home[""])
        for controller, parent in _parents(home).items():
            directory = parent / f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}"
            directory.mkdir(exist_ok=True)
            made[controller] = directory
        if "" in made:
            for controller in _available(made[""]):
                (made[""] / "cgroup.subtree_control").write_text(f"+{controller}")
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


def counting() -> Path | None:
    """A new memory cgroup without limits and without processes, in which others are counted; None where none can be made.

    It is the caller's to remove; if that is killed, sweep() does.
    """
    home = _own_directories()
    with contextlib.suppress(OSError, KeyError):
        parents = _parents(home)
        parent = parents.get("") or parents["memory"]
        directory = parent / f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{time.monotonic_ns()}"
        directory.mkdir()
        return directory
    return None


def user_scope() -> list[str]:
    """The words before a command with which systemd starts it in a group that is delegated to this user (v2).

    [] where that is not needed, as a group can be made without, or cannot be: this user has no manager that we could
    reach. That is told by looking at files alone. Read systemd-run(1), and systemd.resource-control(5) on Delegate=.
    """
    home = _own_directories()
    if os.geteuid() == 0 or "" not in home or _parents(home):
        return []
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    tool = shutil.which("systemd-run")
    if tool and any((runtime / name).is_socket() for name in ("systemd/private", "bus")):
        return [tool, "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]
    return []


def _leave(home: Path) -> Path:
    """Go into a group below ``home``, if that is ours and we are alone in it, as whom systemd gave a scope of its own is.

    For only a group without processes can have limited ones below it. Gives the group that this process then is in.
    """
    ours = all(os.access(home / name, os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control"))
    if home == _TOP or not ours or (home / "cgroup.procs").read_text().split() != [str(os.getpid())]:
        return home
    below = home / _HOME
    below.mkdir(exist_ok=True)
    (below / "cgroup.procs").write_text(str(os.getpid()))
    return below


def sweep() -> None:
    """Remove the groups of keepers that were killed before they could do so themselves."""
    for parent in _parents(_own_directories()).values():
        for directory in parent.glob(_PREFIX + "*"):
            pid, started = (*directory.name.removeprefix(_PREFIX).split("-"), "")[:2]
            if pid.isdigit() and _start_time(int(pid)) != started:
                with contextlib.suppress(OSError):
                    _remove(directory)


def _own_directories() -> dict[str, Path]:
    """The groups that this process is in: controller (v2: "") -> directory; {} where there is no cgroupfs."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    if (_TOP / "cgroup.controllers").exists():  # v2 alone
        return {"": Path(f"{_TOP}{paths.get('', '/')}")}
    directories = {name: Path(f"{_TOP}/{name}{paths[name]}") for name in _V1 if name in paths}
    return directories if len(directories) == len(_V1) and all(d.is_dir() for d in directories.values()) else {}


def _parents(home: dict[str, Path]) -> dict[str, Path]:
    """Below which groups one can be made, and limited. On v2 that is the nearest one above that has what it takes.

    It must be ours to write to, and give its controllers on to those below it. Only the top may do that while it has
    processes of its own; the others have what systemd or whoever delegated them has arranged. The slices of a systemd
    that runs as this user are writable too, and are not ours: there nobody but systemd makes groups.
    """
    if "" not in home:
        return home
    for parent in (_TOP, *(each for each in (home[""], *home[""].parents) if _TOP in each.parents)):
        if os.geteuid() and parent.name.endswith((".slice", ".service")):
            break
        if os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK):
            # What is delegated to us is ours to change, root's is not. And nothing while there are processes in it: cpu
            # and pids would be enabled, memory not, and then no group below could take a process (EOPNOTSUPP).
            ours = os.geteuid() != 0 and not (parent / "cgroup.procs").read_text()
            for controller in _available(parent) if ours else ():
                with contextlib.suppress(OSError):
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            given = (parent / "cgroup.subtree_control").read_text().split()
            if {"memory", "pids"} <= set(given):
                return {"": parent}
    return {}


def _available(directory: Path) -> list[str]:
    """The controllers that a v2 group can give on to those below it, of those that we use."""
    return [name for name in (directory / "cgroup.controllers").read_text().split() if name in _V1]


def _oom_kills(path: Path) -> int:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0


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
