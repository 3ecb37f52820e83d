"""What this machine can do for the course: each capability is tried, not guessed; a missing one says how to mend it.

Every check runs in a child process of its own, all at once, and has a deadline: nothing it does (namespaces, mounts,
programs that hang) reaches this process or outlives it.
"""

import contextlib
import errno
import fcntl
import functools
import getpass
import importlib.util
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thinwalls import course, linux

OK, LIMITED, MISSING = "ok", "limited", "missing"
SCHEMA = "thinwalls/doctor/v1"
EVERY = ("00", "01", "02", "03", "04", "05", "06")
_PATIENCE = 15.0  # seconds for a check
_LITTLE, _TOO_LITTLE = 500, 50  # MB of disk: less is said, and less than that is too little
_KVM_CREATE_VM = 0xAE01  # linux/kvm.h: the ioctl that gives an empty virtual machine
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Capability:
    """One thing the course needs of a machine.

    state: "ok", "limited" (does without, less well) or "missing". stages: those that need it; () for optional ones.
    found: what was seen. mend: what to do about it, a sentence; empty where nothing needs doing.
    """

    name: str
    state: str
    found: str
    stages: tuple[str, ...]
    mend: str = ""


def examine() -> list[Capability]:
    """Try everything, and give one row per capability, in the same order each time."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="thinwalls-doctor-")
    except OSError as error:
        mend = "Free some disk, or set TMPDIR to a directory that is yours."
        return [Capability("temporary files", MISSING, str(error), EVERY, mend)]
    with temporary as scratch:
        running = [_Check(check, Path(scratch, check.__name__)) for check in _CHECKS]
        deadline = time.monotonic() + _PATIENCE
        try:
            return [row for each in running for row in each.finish(deadline)]
        finally:
            for each in running:
                each.kill()


def able(rows: Sequence[Capability]) -> bool:
    """Whether this machine can do all that the stages of this course need; what is optional does not count."""
    existing = {stage.id for stage in course.stages()}
    return not any(row.state == MISSING and existing & set(row.stages) for row in rows)


def as_text(rows: Sequence[Capability]) -> str:
    """The rows for a person."""
    from thinwalls.report import width

    names, needs = max(len(row.name) for row in rows), max(len(_stages(row.stages)) for row in rows)
    lines = []
    for row in rows:
        head = f"{row.state:<7}  {row.name:<{names}}  {_stages(row.stages):<{needs}}  "
        shape = textwrap.TextWrapper(
            width(), subsequent_indent=" " * len(head), break_on_hyphens=False, break_long_words=False
        )
        lines += shape.wrap(head + row.found)
        if row.mend:
            lines += shape.wrap(" " * len(head) + f"mend: {row.mend}")
    first, last = int(course.stages()[0].id), int(course.stages()[-1].id)
    if able(rows):
        return "\n".join([*lines, "", f"This machine can do all that stages {first} to {last} need."])
    return "\n".join([*lines, "", "This machine cannot do all that the course needs: see what is missing above."])


def as_json(rows: Sequence[Capability]) -> str:
    """The rows for a program."""
    body = {"schema": SCHEMA, "able": able(rows), "capabilities": [asdict(row) for row in rows]}
    return json.dumps(body, indent=1)


def why_no_host(said: str) -> str:
    """Why no throwaway host can be made, and what to do about it. said: the error that came of trying."""
    (row,) = _Check(functools.partial(_explain, said), Path("/nonexistent")).finish(time.monotonic() + _PATIENCE)
    return f"{row.found} To mend it: {row.mend}"


def _stages(ids: tuple[str, ...]) -> str:
    if not ids:
        return "optional"
    first, last = int(ids[0]), int(ids[-1])
    return "every stage" if ids == EVERY else f"stage {first}" if first == last else f"stages {first}-{last}"


def _row(name: str, stages: tuple[str, ...], good: str, trouble: str, mend: str, state: str = MISSING) -> Capability:
    """The row of something that works, or, if there is any trouble, of something that is missing or limited."""
    return Capability(name, state, trouble, stages, mend) if trouble else Capability(name, OK, good, stages)


# The checks. Each has the path of a directory that it may make, and gives its rows.


def _python(_: Path) -> list[Capability]:
    good = f"{platform.python_version()} ({sys.executable})"
    old = "" if sys.version_info >= (3, 11) else f"{good}, and the course needs 3.11 or newer"
    wanted = ("pytest", "rich", "jupyterlab", "nbval")
    absent = ", ".join(name for name in wanted if importlib.util.find_spec(name) is None)
    again = "Call the course as ./walls; if you did, remove .venv and call it again."
    return [
        _row("Python", EVERY, good, old, again),
        _row("packages", EVERY, f"{', '.join(wanted)} are here", absent and f"not installed: {absent}", again),
    ]


def _kernel(_: Path) -> list[Capability]:
    calls: dict[str, Callable[[], object]] = {
        "mount_setattr": lambda: linux.mount_setattr("/nonexistent"),  # Linux 5.12, the newest of them
        "close_range": lambda: linux.close_range(1 << 30, flags=linux.CLOSE_RANGE_CLOEXEC),  # 5.11
        "openat2": lambda: linux.openat2(-1, "nonexistent", 0, 0),  # 5.6
    }
    unknown = [] if hasattr(os, "pidfd_open") else ["pidfd_open"]
    for name, call in calls.items():
        try:
            call()
        except OSError as error:  # a call that exists complains of its arguments, or of our permissions
            if error.errno == errno.ENOSYS:
                unknown.append(name)
    release, machine = f"Linux {platform.release()}", platform.machine()
    newer = "The course needs Linux 5.12 or newer: update it, or use a virtual machine with a newer one."
    numbers = ""
    try:
        linux.pivot_root("/nonexistent", "/nonexistent")
    except NotImplementedError as error:
        numbers = str(error)
    except OSError:
        pass
    return [
        _row("kernel", EVERY, release, f"{release} has no {', '.join(unknown)}" if unknown else "", newer),
        _row("architecture", EVERY, machine, numbers, "Use a machine of the kind x86_64 or aarch64."),
    ]


def _host(_: Path) -> list[Capability]:
    """Make a throwaway host, and look what it has got: three rows, for they hang together."""
    from thinwalls.host import Host, HostError, Keeper

    try:
        with Keeper() as keeper:
            group, scope = keeper.cgroup, keeper.scope
            began = time.monotonic()
            with Host(keeper) as host:
                assert host.runner  # waits until it is up
                took = (time.monotonic() - began) * 1000
                lines = Path(f"/proc/{host.pid}/uid_map").read_text().splitlines()
                ids = sum(int(line.split()[2]) for line in lines)
    except HostError as error:
        unknown = "not known, as no throwaway host can be made"
        others = [Capability(name, LIMITED, unknown, ()) for name in ("user ids", "memory bound")]
        return [*_explain(str(error), Path()), *others]
    one = "" if ids > 1 else "a host has one user id: tasks that need a second cannot be graded"
    tried = f" (systemd-run: {Keeper.no_scope})" if Keeper.no_scope else ""
    free = "" if group else f"no cgroup can be made here{tried}, so the memory of graded code is not bounded"
    bounds = f"cgroup {group} bounds memory and processes" + (
        ", in a scope that systemd has delegated" if scope else ""
    )
    return [
        Capability("throwaway host", OK, f"made in {took:.0f} ms: two levels of namespaces", EVERY),
        _row("user ids", (), f"a host has {ids} of them", one, _second_id(), LIMITED),
        _row("memory bound", ("04",), bounds, free, _cgroup(), LIMITED),
    ]


def _second_id() -> str:
    if absent := [tool for tool in ("newuidmap", "newgidmap") if not Path(f"/usr/bin/{tool}").exists()]:
        return f"Install {' and '.join(absent)} (Debian, Ubuntu: sudo apt install uidmap; Fedora: shadow-utils)."
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    return f"Get a range of ids that no line of /etc/subuid has yet: sudo usermod {ranges} {getpass.getuser()}"


def _cgroup() -> str:
    if os.geteuid() == 0:
        return "In a container: give it a cgroup namespace of its own and a writable /sys/fs/cgroup."
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return (
            "Log in where systemd runs a manager for you (loginctl user-status names user@.service): it is then asked for "
            "a group by itself; or call it as root."
        )
    return (
        "Call it as root, or have root hand you a cgroup of memory, pids, cpu and cpuacct; the other stages do without."
    )


def _rootfs(scratch: Path) -> list[Capability]:
    from thinwalls import rootfs

    scratch.mkdir()
    began = time.monotonic()
    trouble = mend = ""
    try:
        rootfs.build(str(scratch))
    except OSError as error:  # rootfs.Unbuildable among them
        trouble = str(error)
        mend = "It takes a shell, coreutils and ldd (Debian, Ubuntu: dash, coreutils, libc-bin), and some disk."
    size = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) / 2**20
    good = f"built in {(time.monotonic() - began) * 1000:.0f} ms, {size:.0f} MB"
    return [_row("small rootfs", EVERY[1:], good, trouble, mend)]


def _disk(_: Path) -> list[Capability]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls")
    rows = []
    for name, folder, instead in (
        ("disk: cache", cache, "set XDG_CACHE_HOME to a directory that is yours."),
        ("disk: checkout", course.ROOT, "clone the course into a directory that is yours."),
    ):
        there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        try:
            with tempfile.TemporaryFile(dir=there) as trial:
                trial.write(b"\0" * 4096)
            free = shutil.disk_usage(there).free // 10**6
        except OSError as error:
            mend = f"Make it writable, or {instead}"
            rows.append(Capability(name, MISSING, f"{there}: {error.strerror}", EVERY, mend))
            continue
        found = f"{free} MB free in {there}"
        state = MISSING if free < _TOO_LITTLE else LIMITED
        rows.append(_row(name, EVERY, found, found if free < _LITTLE else "", "Free some space there.", state))
    return rows


def _overlay(scratch: Path) -> list[Capability]:
    """An overlay mounted the way a container of this user would have it: in new user and mount namespaces."""
    for name in ("lower", "upper", "work", "merged"):
        (scratch / name).mkdir(parents=True)

    def mount() -> None:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        layers = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        linux.mount("overlay", scratch / "merged", "overlay", 0, layers)
        (scratch / "merged/file").write_text("above")

    said = _inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNS, mount)
    mend = "Set TMPDIR to a directory on ext4, xfs, btrfs or tmpfs; the course itself does without."
    return [_row("overlayfs", (), f"can be mounted in {scratch.parent.parent}", said, mend, LIMITED)]


def _network(_: Path) -> list[Capability]:
    """A bridge, a veth pair and a packet filter, made in a network namespace that goes with the child."""
    rows = []
    for tool, package, modules, line in (
        ("ip", "iproute2 (Fedora: iproute)", "bridge veth", "ip link add tw0 type bridge && ip link add tw1 type veth"),
        ("nft", "nftables", "nf_tables", "nft add table ip thinwalls"),
    ):
        if (path := shutil.which(tool, path=_SEARCH)) is None:
            rows.append(Capability(tool, MISSING, f"there is no program {tool}", ("05",), f"Install {package}."))
            continue
        said = _inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNET, functools.partial(_shell, line))
        mend = f"The kernel's modules may not be loaded: sudo modprobe -a {modules}"
        rows.append(_row(tool, ("05",), f"{path} works in a network namespace of its own", said, mend, LIMITED))
    return rows


def _virtual_machine(_: Path) -> list[Capability]:
    names = (f"qemu-system-{platform.machine()}", "qemu-kvm")
    found = next((path for name in names if (path := shutil.which(name, path=_SEARCH))), None)
    if found is None:
        mend = "Only for comparing: install qemu-system-x86 (or qemu-system-arm)."
        return [Capability("QEMU", MISSING, "not installed", (), mend)]
    version = _shell(f"{found} --version").partition("\n")[0]
    slow = ""
    try:
        with Path("/dev/kvm").open("rb+", buffering=0) as device:
            os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError as error:
        slow = f"{version}, without KVM (/dev/kvm: {error.strerror}): it emulates, some twenty times slower"
    mend = "If /dev/kvm is there: sudo usermod -aG kvm $USER, and log in again."
    return [_row("QEMU", (), f"{version}, with KVM", slow, mend, LIMITED)]


_CHECKS = (_python, _kernel, _host, _rootfs, _disk, _overlay, _network, _virtual_machine)

# Why no host can be made: the causes one meets, each looked for where it can be seen, in this order.

_OUTSIDE = "or run the course outside of the container."
_ENGINE = "A seccomp filter, as container engines have one, refuses"
_UNCONFINED = f"start the container with --security-opt seccomp=unconfined, {_OUTSIDE}"
_UNMASKED = (
    "start the container with --security-opt systempaths=unconfined (Docker) or --security-opt unmask=ALL (podman), "
    + _OUTSIDE
)
_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


def _explain(said: str, _: Path) -> list[Capability]:
    cause, mend = _cause()
    if not cause and re.search("new[ug]idmap", said):
        mend = "newuidmap and newgidmap must be setuid root: install their package (Debian, Ubuntu: uidmap) again."
    mend = mend or "show this line to whoever runs this machine."
    return [Capability("throwaway host", MISSING, cause or said, EVERY, mend)]


def _cause() -> tuple[str, str]:
    """What keeps this process from the namespaces of a host, and the mend; empty if nothing known does."""
    root = os.geteuid() == 0
    if not Path("/proc/self/ns/user").exists():
        return "This kernel has no user namespaces (CONFIG_USER_NS).", "use the kernel of a distribution."
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        if _setting(name := f"user.max_{kind}_namespaces") == "0":
            return f"This machine allows no {kind} namespaces ({name} is 0).", f"sudo sysctl -w {name}=10000"
    if not root and _setting(name := "kernel.unprivileged_userns_clone") == "0":
        return f"Only root may make user namespaces here ({name} is 0).", f"sudo sysctl -w {name}=1"
    # AppArmor lets the namespace be made, and keeps back the capabilities that it is made for.
    denied = _inside(linux.CLONE_NEWUSER, functools.partial(linux.unshare, linux.CLONE_NEWUTS))
    if not root and _setting(_APPARMOR) == "1" and denied:
        cause = f"AppArmor keeps programs from using user namespaces ({_APPARMOR} is 1, as on Ubuntu since 24.04)."
        return cause, f"sudo sysctl -w {_APPARMOR}=0 (to keep it, write that setting to a file in /etc/sysctl.d)"
    if said := _inside(linux.CLONE_NEWUSER):
        if _in_chroot():
            return "This process is in a chroot, where the kernel allows no user namespace.", "run it outside of that."
        if _seccomp():
            return f"{_ENGINE} user namespaces ({said}).", _UNCONFINED
        return f"A user namespace cannot be made: {said}.", ""
    if root and not _has_ids():
        cause = "This root is root only in a user namespace, as in a rootless container, with no ids to give to a host."
        return cause, f"run it as another user than root, {_OUTSIDE}"
    if said := _inside(linux.CLONE_NEWUSER, functools.partial(linux.unshare, linux.CLONE_NEWUSER)):
        return f"A user namespace within another cannot be made: {said}.", ""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    proc = functools.partial(linux.mount, "proc", "/proc", "proc", flags)
    if said := _inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWPID, proc):
        if masked := _masked():
            cause = f"Parts of /proc are covered ({', '.join(masked)}), as container engines do it"
            return f"{cause}; then the kernel lets nobody mount a /proc of his own.", _UNMASKED
        if _seccomp():
            return f"{_ENGINE} mounts ({said}).", _UNCONFINED
        return f"No /proc can be mounted in new namespaces: {said}.", ""
    return "", ""


def _setting(name: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    return ""


def _mount_points() -> list[str]:
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _in_chroot() -> bool:
    """Whether the root is no mount point of this mount namespace, as it is unless somebody called chroot."""
    return "/" not in _mount_points()


def _masked() -> list[str]:
    """What is mounted over parts of /proc."""
    return [path for path in _mount_points() if path.startswith("/proc/") and path != "/proc/sys/fs/binfmt_misc"]


def _seccomp() -> bool:
    return bool(re.search(r"^Seccomp:\s+2$", Path("/proc/self/status").read_text(), re.MULTILINE))


def _has_ids() -> bool:
    """Whether this user namespace has the high ids of which root gives each host its own (thinwalls.host.keeper)."""
    lines = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(first) <= 0x5A000000 < int(first) + int(count) for first, _, count in lines)


# Trying things where they do no harm.


def _inside(flags: int, try_it: Callable[[], object] = lambda: None) -> str:
    """Do something in a child that is born into new namespaces, its user mapped to 0; what went wrong, or ""."""
    with contextlib.ExitStack() as cleanup:
        report, reports = os.pipe()
        mapped, go = os.pipe()
        for fd in (report, mapped):
            cleanup.callback(os.close, fd)
        try:
            pid = linux.clone(flags)
        except OSError as error:
            os.close(reports)
            os.close(go)
            return str(error)
        if pid == 0:
            try:
                os.close(go)
                if os.read(mapped, 1):
                    try_it()
            except BaseException as error:
                os.write(reports, str(error).encode()[:1000] or b"?")
            finally:
                os._exit(0)
        os.close(reports)
        said = ""
        try:
            with contextlib.suppress(FileNotFoundError):
                Path(f"/proc/{pid}/setgroups").write_text("deny")
            Path(f"/proc/{pid}/uid_map").write_text(f"0 {os.geteuid()} 1")
            Path(f"/proc/{pid}/gid_map").write_text(f"0 {os.getegid()} 1")
            os.write(go, b"1")
        except OSError as error:
            said = f"its ids cannot be mapped: {error.strerror}"
        os.close(go)
        said = said or os.read(report, 1000).decode(errors="replace")
        os.waitpid(pid, 0)
        return said


def _shell(line: str) -> str:
    """What a line of shell prints. Raises OSError with what it complains of, if it fails."""
    environment = {"PATH": _SEARCH, "LC_ALL": "C"}
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise OSError(f"{line}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


class _Check:
    """A check that is running in a child process, which leads a session of its own."""

    def __init__(self, check: Callable[[Path], list[Capability]], scratch: Path):
        self._name = getattr(check, "__name__", "host").strip("_").replace("_", " ")
        self._answer, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                os.close(self._answer)
                rows = self._try(check, scratch)
                os.write(write, json.dumps([asdict(row) for row in rows]).encode())
            finally:
                os._exit(0)
        os.close(write)

    def _try(self, check: Callable[[Path], list[Capability]], scratch: Path) -> list[Capability]:
        try:
            return check(scratch)
        except BaseException as error:
            found = f"this check broke: {type(error).__name__}: {error}"
            return [Capability(self._name, MISSING, found, EVERY, "Please report this line.")]

    def finish(self, deadline: float) -> list[Capability]:
        """Its rows; one that says so, if it has not answered by then."""
        data = b""
        while select.select([self._answer], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(self._answer, 65536)
            if not chunk:
                break
            data += chunk
        self.kill()
        try:
            return [Capability(**{**row, "stages": tuple(row["stages"])}) for row in json.loads(data)]
        except (ValueError, TypeError):
            found = f"this check gave no answer within {_PATIENCE:.0f} seconds"
            return [Capability(self._name, MISSING, found, EVERY, "Something hangs: try again, then report this line.")]

    def kill(self) -> None:
        """End it, and whatever it has started and not waited for."""
        if self._pid:
            for kill in (os.killpg, os.kill):  # the second for one that does not lead its session yet
                with contextlib.suppress(ProcessLookupError):
                    kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._answer)
            self._pid = 0
