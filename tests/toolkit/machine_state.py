"""What of this machine a throwaway host could have changed, as a value: take one before, one after, and compare.

    before = machine_state.snapshot()
    ...
    assert machine_state.difference(before, machine_state.settled(before)) == []

Other people's doings on a busy machine are left out: of processes only our own descendants count, of cgroups and
sockets only those with our names that no living stranger holds, of files only those with our names.
"""

import os
import re
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from thinwalls import facts, linux

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
# Where others come and go: container engines, login sessions, packages that are mounts, named network namespaces.
_STRANGERS_MOUNTS = re.compile(
    r"/(var/lib/(docker|containers|containerd|lxc|snapd)|run/(user|docker|netns|containerd|credentials)|snap)(/|$)"
)
_SETTINGS = (
    "core_pattern",
    "hostname",
    "domainname",
    "modprobe",
    "sysrq",
    "panic",
    "randomize_va_space",
    "shmmax",
    "msgmax",
    "pid_max",
)


@dataclass(frozen=True)
class MachineState:
    """Each field is a set of lines that a person can read."""

    mounts: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    sockets: frozenset[str]
    files: frozenset[str]
    settings: frozenset[str]


def snapshot(*places: str | os.PathLike) -> MachineState:
    """The state now. places: directories that are ours alone, every file in which counts.

    From the first call on, orphans of this process's descendants become its own children (PR_SET_CHILD_SUBREAPER), so
    that nothing that was started here gets out of sight by losing its parent.
    """
    linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return MachineState(_mounts(), _links(), _cgroups(), _processes(), _sockets(), _files(places), _settings())


def settled(before: MachineState, *places: str | os.PathLike, seconds: float = 5) -> MachineState:
    """The state as soon as it equals ``before``; after so many seconds, as it is then.

    The kernel takes some things down on its own time (a network namespace, its links). Orphans that ended are reaped
    here, as the machine's PID 1 would have done.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap(before)
        now = snapshot(*places)
        if now == before or time.monotonic() > deadline:
            return now
        time.sleep(0.02)


def difference(before: MachineState, after: MachineState) -> list[str]:
    """What is there that was not ("+"), and what was there and is not ("-")."""
    found = []
    for field in fields(MachineState):
        old, new = getattr(before, field.name), getattr(after, field.name)
        found += [f"- {field.name}: {line}" for line in sorted(old - new)]
        found += [f"+ {field.name}: {line}" for line in sorted(new - old)]
    return found


def _mounts() -> frozenset[str]:
    """The mounts of our mount namespace; the n-th of several equal ones is numbered.

    A host's root is mounted at /tmp, everything else of it below that: what others mount there is not looked at, nor
    below /var/tmp, where an engine that is tried keeps its store.
    """
    found: dict[str, int] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        attached, _, filesystem = line.partition(" - ")
        _, _, _, root, point, options, *_ = attached.split()
        if not _STRANGERS_MOUNTS.match(point) and not point.startswith(("/tmp/", "/var/tmp/")):
            text = f"{filesystem.split(' ')[0]} {root} on {point} ({options}; {filesystem})"
            found[text] = found.get(text, 0) + 1
    return frozenset(f"{text} #{n}" for text, count in found.items() for n in range(count))


def _links() -> frozenset[str]:
    return frozenset(name for _, name in socket.if_nameindex())


def _settings() -> frozenset[str]:
    found = set()
    for name in _SETTINGS:
        path = Path("/proc/sys/kernel", name)
        if path.exists() and os.access(path, os.R_OK):
            found.add(f"{name} = {path.read_text().strip()}")
    return frozenset(found)


def cgroup_directories() -> list[Path]:
    """The cgroups named after a keeper, wherever a keeper of ours could have put them."""
    parents = set()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for mount in (controllers, "unified", ""):
            own = Path(f"/sys/fs/cgroup/{mount}{path}")
            parents |= {Path("/sys/fs/cgroup", mount), own, own.parent}
    return [directory for parent in parents for directory in parent.glob("thinwalls-*") if directory.is_dir()]


def _cgroups() -> frozenset[str]:
    own = {os.getpid(), *facts.descendants(os.getpid())}
    found = set()
    for directory in cgroup_directories():
        # thinwalls-PID-… is a keeper's; thinwalls-bench-PID, and whatever else is named so, somebody's who has that pid.
        pid = next((word for word in directory.name.split("-") if word.isdigit()), "")
        if not (pid and int(pid) not in own and os.path.exists(f"/proc/{pid}")):
            found.add(str(directory))
    return frozenset(found)


def _processes() -> frozenset[str]:
    found = set()
    for pid, state in facts.descendants(os.getpid()).items():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
            name = " ".join(words)[:60] or Path(f"/proc/{pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.add(f"{pid} {name!r}" + (" (a zombie)" if state == "Z" else ""))
    return frozenset(found)


def reap(before: MachineState) -> None:
    """Wait for the dead among our children that were not there before."""
    known = {line.split()[0] for line in before.processes}
    for pid, state in facts.descendants(os.getpid()).items():
        if state == "Z" and str(pid) not in known:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass  # a child of a child: not ours to wait for


def _sockets() -> frozenset[str]:
    """The names of abstract sockets that claim id ranges, but for those that some stranger's keeper holds."""
    if os.geteuid() != 0:
        return frozenset()  # only root's keepers claim ranges, and who holds one is for root to see
    inodes = _claims()
    if inodes:
        own = {os.getpid(), *facts.descendants(os.getpid())}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in own:
                for inode in _open_sockets(entry):
                    inodes.pop(inode, None)
        inodes = {inode: name for inode, name in _claims().items() if inode in inodes}  # not those that went meanwhile
    return frozenset(inodes.values())


def _claims() -> dict[str, str]:
    found = {}
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[7].startswith("@thinwalls-"):
            found[f"socket:[{words[6]}]"] = words[7]
    return found


def _open_sockets(pid: str) -> list[str]:
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass
    return found


def _files(places: Sequence[str | os.PathLike]) -> frozenset[str]:
    found = set()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls")
    for place, ours in (
        (tempfile.gettempdir(), "thinwalls"),
        ("/dev/shm", "thinwalls"),
        (cache, ".rootfs-"),
        *((p, "") for p in places),
    ):
        try:
            with os.scandir(place) as entries:
                found |= {entry.path for entry in entries if ours in entry.name and _is_ours(entry)}
        except FileNotFoundError:
            pass
    return frozenset(found)


def _is_ours(entry: os.DirEntry) -> bool:
    """Whether it is this user's; what the proof that runs these tests keeps there is no trace of them."""
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.geteuid() and not entry.name.startswith("thinwalls-test-")
    except FileNotFoundError:
        return False
