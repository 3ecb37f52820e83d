"""What the kernel says about a process, read from outside it: the only witness that cannot be talked to.

Everything here comes from /proc as this machine's PID namespace shows it (proc(5)), never from the process
itself. A process is held by a pidfd, so that facts about a number that was reused are never returned.
"""

import contextlib
import errno
import os
import re
import select
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinwalls import linux

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


# What the kernel answers about a process that ends: of a zombie's memory and links, that we may not look.
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class Ended(ProcessLookupError):
    """The process is not there any more (or is a zombie, of which nothing can be read)."""


@dataclass(frozen=True)
class File:
    """Which file something is: names can lie, this pair cannot."""

    device: int
    inode: int

    @classmethod
    def at(cls, path: str) -> "File":
        """The file that ``path`` leads to now (os.stat; links, the kernel's magic ones too, are followed)."""
        found = os.stat(path)
        return cls(found.st_dev, found.st_ino)


@dataclass(frozen=True)
class Mount:
    """A line of a process's mount table, proc_pid_mountinfo(5)."""

    point: str  # where it is, below the process's root
    root: str  # which directory of the file system that is
    options: frozenset[str]  # of this mount: "ro", "nosuid" ...
    fstype: str
    shared: bool  # mounts made below it show up elsewhere too


def mount_table(text: str) -> list[Mount]:
    """The lines of a mountinfo, proc_pid_mountinfo(5)."""
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, _, root, point, options, *optional = fields.split(" ")
        shared = any(each.startswith("shared:") for each in optional)
        found.append(Mount(point, root, frozenset(options.split(",")), rest.split(" ")[0], shared))
    return found


class Process:
    """A living process, by the id it has in this machine's (the reader's) PID namespace.

    Every reading raises Ended when the process is gone, PermissionError when it is not ours to look at.
    """

    def __init__(self, pid: int):
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise Ended(f"process {pid} has ended") from None

    def __del__(self) -> None:
        if hasattr(self, "_pidfd"):
            os.close(self._pidfd)

    def ended(self, seconds: float = 0) -> bool:
        """Whether it has ended, after waiting so long for it at most."""
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def status(self) -> dict[str, str]:
        """The fields of /proc/PID/status, proc_pid_status(5)."""
        lines = self._text("status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def parent(self) -> int:
        """The parent's process id."""
        return int(self.status()["PPid"])

    def signals(self, kind: str) -> set[int]:
        """The numbers of the signals that are "Blk" (blocked), "Ign" (ignored) or "Cgt" (caught)."""
        mask = int(self.status()[f"Sig{kind}"], 16)
        return {bit + 1 for bit in range(64) if mask >> bit & 1}

    def namespaces(self) -> dict[str, int]:
        """The inode number of each namespace it is in, by the names in /proc/PID/ns, namespaces(7)."""
        found = {name: self._file(f"ns/{name}").inode for name in NAMESPACES if self._has(f"ns/{name}")}
        self._alive()  # else "none of them" of a process that has none any more
        return found

    def argv(self) -> list[str]:
        """Its arguments, as they stand in its memory now."""
        return self._text("cmdline").split("\0")[:-1]

    def environ(self) -> dict[str, str]:
        """The environment it was given at exec."""
        pairs = (entry.partition("=") for entry in self._text("environ").split("\0") if entry)
        return {name: value for name, _, value in pairs}

    def executable(self) -> File:
        """The file whose program it runs."""
        return self._file("exe")

    def root(self) -> File:
        """The directory that is its "/"."""
        return self._file("root")

    def cwd(self) -> File:
        """Its working directory."""
        return self._file("cwd")

    def sees(self, path: str) -> File:
        """The file at an absolute path as the process sees it; links on the way are followed inside its root.

        Use it on roots that only trusted code has written; a hostile one needs linux.open_in_root.
        """
        return self._file(f"root{path}")

    def mounts(self) -> list[Mount]:
        """Its mount table: what lies below its root, in the order of mounting."""
        return mount_table(self._text("mountinfo"))

    def kernel_files(self) -> dict[str, str]:
        """What it sees of the kernel's files with less than they offer: path -> "read-only", "masked" or "absent".

        Of /proc and /sys and what is mounted below them; masked: covered by a null device or a tmpfs.
        """
        found, absent = {}, {"proc", "sysfs"}
        for mount in self.mounts():
            if not re.match("/(proc|sys)(/|$)", mount.point):
                continue
            absent.discard(mount.fstype)
            if mount.root.endswith("/null") or (mount.fstype in ("tmpfs", "devtmpfs") and "cgroup" not in mount.point):
                found[mount.point] = "masked"
            elif mount.fstype in ("proc", "sysfs") and "ro" in mount.options:
                found[mount.point] = "read-only"
            else:
                found.pop(mount.point, None)  # what is mounted later covers the earlier
        return found | {path: "absent" for fstype, path in (("proc", "/proc"), ("sysfs", "/sys")) if fstype in absent}

    def look(self, path: str, follow: bool = True) -> os.stat_result | None:
        """What lies at a path of its own, without opening it; None: nothing. Nothing in its root can lead us outside.

        follow: whether a link at the end of the path is followed, inside its root.
        """
        try:
            root = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = linux.open_in_root(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
            finally:
                os.close(root)
        except (FileNotFoundError, NotADirectoryError):
            self._alive()
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def read(self, path: str, most: int = 1 << 24) -> bytes | None:
        """The first bytes of a regular file of its own, links followed inside its root; None: there is none."""
        found = self.look(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        with contextlib.suppress(OSError), open(self._inside(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return file.read(most) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
        return None

    def names(self, path: str) -> list[str] | None:
        """The names in a directory of its own, sorted; None: there is no directory."""
        try:
            directory = self._inside(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return sorted(os.listdir(directory))
        finally:
            os.close(directory)

    def link(self, path: str) -> str | None:
        """What a symbolic link of its own says; None: there is no link."""
        with contextlib.suppress(OSError):
            found = self._inside(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                return os.readlink("", dir_fd=found)
            finally:
                os.close(found)
        return None

    def attribute(self, path: str, name: str) -> bytes | None:
        """An extended attribute of a file of its own, xattr(7); None: it has none of that name."""
        with contextlib.suppress(OSError):
            found = self._inside(path, os.O_PATH)
            try:
                return os.getxattr(f"/proc/self/fd/{found}", name)
            finally:
                os.close(found)
        return None

    def runs(self, program: bytes) -> bool:
        """Whether the file whose program it runs has this content."""
        with open(f"/proc/{self.pid}/exe", "rb") as file:
            same = file.read(len(program) + 1) == program
        self._alive()
        return same

    def _inside(self, path: str, flags: int) -> int:
        root = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.open_in_root(root, path, flags)
        finally:
            os.close(root)

    def descriptors(self) -> dict[int, File]:
        """Its open descriptors, and which file each is."""
        directory = f"/proc/{self.pid}/fd"
        found = {}
        try:
            for name in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    found[int(name)] = File.at(f"{directory}/{name}")
        except _GONE:
            self._alive()
            raise
        self._alive()
        return found

    def name(self) -> str:
        """The name of its program, proc_pid_comm(5); it can set that itself, to anything."""
        return self._text("comm").removesuffix("\n")

    def namespace(self, name: str) -> int | None:
        """The inode number of one namespace, by its name in /proc/PID/ns; None: this kernel has no such namespaces."""
        return self._file(f"ns/{name}").inode if self._has(f"ns/{name}") else None

    def kernel_thread(self) -> bool:
        """Whether it is a part of the kernel itself: it has the flag PF_KTHREAD (linux/sched.h)."""
        return bool(int(_stat(self.pid)[6]) & 0x00200000)

    def root_path(self) -> str:
        """Where its root is: "/" if no directory is above it, in its own mount namespace or in the reader's root."""
        return self._link("root")

    def id_map(self) -> list[tuple[int, int, int]]:
        """Its user namespace's map of user ids: first id inside, first id outside, how many; user_namespaces(7)."""
        lines = [[int(number) for number in line.split()] for line in self._text("uid_map").splitlines()]
        return [(inside, outside, count) for inside, outside, count in lines]

    def capabilities(self, kind: str) -> set[int]:
        """The numbers of its capabilities: "Eff", "Prm", "Inh", "Bnd" or "Amb" (capabilities(7))."""
        mask = int(self.status()[f"Cap{kind}"], 16)
        return {bit for bit in range(64) if mask >> bit & 1}

    def links(self) -> list[str]:
        """The names of the network devices of its network namespace, proc_pid_net(5)."""
        return [line.partition(":")[0].strip() for line in self._text("net/dev").splitlines()[2:]]

    def addresses(self) -> set[str]:
        """The IPv4 addresses of its network namespace: those that /proc/PID/net/fib_trie calls local."""
        return set(re.findall(r"-- ([0-9.]+)\n +/32 host LOCAL", self._text("net/fib_trie")))

    def gateway(self) -> str:
        """Where its network namespace sends what is for nobody it knows (IPv4); "": nowhere. See /proc/PID/net/route."""
        for line in self._text("net/route").splitlines()[1:]:
            device, destination, through, *_ = line.split()
            if destination == "00000000" and device:
                return ".".join(str(byte) for byte in bytes.fromhex(through)[::-1])
        return ""

    def label(self) -> str:
        """What a security module says of it (an AppArmor profile, an SELinux context); "": there is none."""
        try:
            return self._text("attr/current").rstrip("\0\n")
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                self._alive()
                return ""
            raise

    def hostname(self) -> str:
        """The host name in its UTS namespace.

        No file tells it: a child of ours joins the namespace (and, if only that makes it possible, the user
        namespace first) and asks. It runs nothing of the container's and opens none of its files.
        """
        if self.namespace("uts") == Process(os.getpid()).namespace("uts"):
            return os.uname().nodename
        answer, says = os.pipe()
        pid = linux.clone()
        if pid == 0:
            for kinds in (linux.CLONE_NEWUTS, linux.CLONE_NEWUSER | linux.CLONE_NEWUTS):
                with contextlib.suppress(BaseException):
                    linux.setns(self._pidfd, kinds)
                    os.write(says, b"=" + os.fsencode(os.uname().nodename))
                    break
            os._exit(0)
        os.close(says)
        with open(answer, "rb") as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        self._alive()
        if not said:
            raise PermissionError(errno.EPERM, "its UTS namespace may not be joined")
        return os.fsdecode(said[1:])

    def cgroups(self) -> dict[str, str]:
        """Its cgroup in each hierarchy, as the reader's cgroup namespace names it: controller (v2: "") -> path."""
        paths = {}
        for line in self._text("cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                paths[controller] = path
        return paths

    def limits(self) -> dict[str, tuple[float, str]]:
        """What its cgroups allow it: "memory" (bytes), "pids" or "cpu" (processors) -> amount, the group that says so.

        The groups above it count too; a resource without a limit is left out. Raises FileNotFoundError where its
        cgroups cannot be seen, because no cgroup file system (cgroups(7)) is mounted here or it shows other ones.
        """
        found: dict[str, tuple[float, str]] = {}
        mounted, seen = _cgroup_mounts(), False
        for controller, path in self.cgroups().items():
            point, top = mounted.get(controller, ("", ""))
            below = os.path.relpath(path, top) if point else ".."
            if below.startswith("..") or not os.path.isdir(f"{point}/{below}"):
                continue
            seen = True
            groups = [Path(point, below), *Path(point, below).parents]
            for group in groups[: groups.index(Path(point)) + 1]:
                for resource, amount in _limits_of(group).items():
                    if amount < found.get(resource, (float("inf"), ""))[0]:
                        found[resource] = amount, str(group.relative_to(point))
        self._alive()
        if not seen:
            raise FileNotFoundError(errno.ENOENT, "its cgroups are not to be seen here")
        return found

    def _has(self, name: str) -> bool:
        return os.path.lexists(f"/proc/{self.pid}/{name}")

    def _file(self, name: str) -> File:
        try:
            found = File.at(f"/proc/{self.pid}/{name}")
        except _GONE:
            self._alive()
            raise
        self._alive()
        return found

    def _link(self, name: str) -> str:
        try:
            found = os.readlink(f"/proc/{self.pid}/{name}")
        except (FileNotFoundError, ProcessLookupError):
            self._alive()
            raise
        self._alive()
        return found

    def _text(self, name: str) -> str:
        try:
            text = Path(f"/proc/{self.pid}/{name}").read_bytes()
        except _GONE:
            self._alive()
            raise
        self._alive()
        return text.decode(errors="surrogateescape")

    def _alive(self) -> None:
        """The reading before this call was of our process only if our process is still there after it."""
        if self.ended():
            raise Ended(f"process {self.pid} has ended")


def of_socket(fd: int) -> File:
    """Which file a descriptor of our own is."""
    found = os.fstat(fd)
    assert stat.S_ISSOCK(found.st_mode)
    return File(found.st_dev, found.st_ino)


def descendants(pid: int) -> dict[int, str]:
    """The processes below ``pid``: id -> one letter for the state, "Z" for a zombie (proc_pid_stat(5)).

    When a process ends, its children move up to one whose list may have been read a moment before. So where somebody was
    found to have ended, it is looked again, until only those have whom an earlier look had found so.
    """
    ended: set[int] = set()
    for _ in range(_LOOKS):
        found, ended_now = _look_below(pid)
        if ended_now <= ended:
            break
        ended |= ended_now
    return found


_LOOKS = 10  # at the most: below a fork bomb somebody always has


def _look_below(pid: int) -> tuple[dict[int, str], set[int]]:
    """The processes below ``pid``, and which of those that were met have ended, as zombies or altogether."""
    children = _listed_children if os.path.exists(f"/proc/{pid}/task/{pid}/children") else _scanned_children()
    found: dict[int, str] = {}
    ended = set()
    queue = [pid]
    while queue:
        parent = queue.pop()
        for child in children(parent):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[child] = _stat(child)[0]
                queue.append(child)
            if found.get(child, "Z") == "Z":
                ended.add(child)
        try:
            if parent != pid and _stat(parent)[0] == "Z":
                ended.add(parent)
        except (FileNotFoundError, ProcessLookupError):
            ended.add(parent)
    return found, ended


def _listed_children(pid: int) -> list[int]:
    """From /proc/PID/task/*/children, which most kernels have (CONFIG_PROC_CHILDREN)."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def _scanned_children() -> Callable[[int], list[int]]:
    """The same from the parents that all processes of the machine name: dearer, the more there are."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    return lambda pid: parents.get(pid, [])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _cgroup_mounts() -> dict[str, tuple[str, str]]:
    """Where the reader has cgroups mounted: controller (v2: "") -> mount point, and which group is at it."""
    found: dict[str, tuple[str, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        _, _, _, root, point = fields.split(" ")[:5]
        fstype, _, options = rest.split(" ", 2)
        if fstype in ("cgroup", "cgroup2"):
            for controller in [""] if fstype == "cgroup2" else options.split(","):
                found.setdefault(controller, (point, root))
    return found


def _limits_of(group: Path) -> dict[str, float]:
    """The limits that are set in one cgroup, of either version; those that say "no limit" are left out."""
    found: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError):
        if (most := (group / "pids.max").read_text().strip()) != "max":
            found["pids"] = int(most)
    for name in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(FileNotFoundError):
            most = (group / name).read_text().strip()
            if most != "max" and int(most) < 2**60:  # v1 says "none" with the largest number of whole pages
                found["memory"] = int(most)
    with contextlib.suppress(FileNotFoundError):
        quota, period = (group / "cpu.max").read_text().split()
        if quota != "max":
            found["cpu"] = int(quota) / int(period)
    with contextlib.suppress(FileNotFoundError):
        quota = (group / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            found["cpu"] = int(quota) / int((group / "cpu.cfs_period_us").read_text())
    return found
