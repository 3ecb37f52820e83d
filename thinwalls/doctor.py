"""What this machine can do for the course: each capability is tried, not guessed; a missing one says how to mend it.

Every check runs in a child process of its own, all at once, and has a deadline: nothing it does (namespaces, mounts,
programs that hang) reaches this process or outlives it.
"""

import errno
import fcntl
import functools
import importlib
import importlib.util
import json
import os
import platform
import shutil
import stat
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from thinwalls import causes, course, linux, troubles
from thinwalls.distribution import install
from thinwalls.iproute import SEARCH
from thinwalls.trial import Aside, inside, tell
from thinwalls.troubles import Trouble

OK, LIMITED, MISSING = "ok", "limited", "missing"
SCHEMA = "thinwalls/doctor/v1"
EVERY = ("00", "01", "02", "03", "04", "05", "06")
_PATIENCE = 15.0  # seconds for a check
_LITTLE, _TOO_LITTLE = 500, 50  # MB of disk: less is said, and less than that is too little
_PACKAGES = ("pytest", "rich", "jupyterlab", "nbval")
_COMPILED = ("zmq",)  # what Jupyter's kernels speak through: its library must be loadable
_KVM = Path("/dev/kvm")
_KVM_CREATE_VM = 0xAE01  # linux/kvm.h: the ioctl that gives an empty virtual machine


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
        return [_row("temporary files", EVERY, "", troubles.NO_TEMPORARY.here(said=error))]
    with temporary as scratch:
        running = [Aside(functools.partial(_rows, check, Path(scratch, check.__name__))) for check in _CHECKS]
        deadline = time.monotonic() + _PATIENCE
        try:
            answers = [each.finish(deadline) for each in running]
        finally:
            for each in running:
                each.kill()
    return [row for check, answer in zip(_CHECKS, answers, strict=True) for row in _answered(check.__name__, answer)]


def _rows(check: Callable[[Path], list[Capability]], scratch: Path) -> list[tuple[object, ...]]:
    return [astuple(row) for row in check(scratch)]


def _answered(name: str, answer: dict[str, Any]) -> list[Capability]:
    """The rows of a check; one that says so, if it has broken or not answered in time."""
    if "gave" in answer:
        return [
            Capability(name, state, found, tuple(stages), mend) for name, state, found, stages, mend in answer["gave"]
        ]
    trouble = troubles.SILENT.here(seconds=f"{_PATIENCE:.0f}")
    if "broke" in answer:
        trouble = troubles.BROKE.here(said=answer["broke"])
    return [_row(name.strip("_").replace("_", " "), EVERY, "", trouble)]


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
    looking = Aside(lambda: [*astuple(causes.no_host(said))])
    trouble = Trouble(
        *looking.finish(time.monotonic() + _PATIENCE).get("gave", astuple(troubles.UNKNOWN.here(said=said)))
    )
    return f"{trouble.cause} To mend it: {trouble.mend}"


def _stages(ids: tuple[str, ...]) -> str:
    if not ids:
        return "optional"
    first, last = int(ids[0]), int(ids[-1])
    return "every stage" if ids == EVERY else f"stage {first}" if first == last else f"stages {first}-{last}"


def _row(name: str, stages: tuple[str, ...], good: str, trouble: Trouble | None, state: str = MISSING) -> Capability:
    """The row of something that works, or, if there is any trouble, of something that is missing or limited."""
    if trouble is None:
        return Capability(name, OK, good, stages)
    return Capability(name, state, trouble.cause, stages, trouble.mend)


# The checks. Each has the path of a directory that it may make, and gives its rows.


def _python(_: Path) -> list[Capability]:
    good = f"{platform.python_version()} ({sys.executable})"
    old = None if sys.version_info >= (3, 11) else troubles.OLD_PYTHON.here(python=good)
    return [
        _row("Python", EVERY, good, old),
        _row("packages", EVERY, f"{', '.join(_PACKAGES)} are here", _no_packages()),
    ]


def _no_packages() -> Trouble | None:
    if absent := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        return troubles.NO_PACKAGES.here(names=", ".join(absent))
    for name in _COMPILED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return troubles.NO_LOADING.here(name=name, said=str(error).rpartition(": ")[2])
    return None


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
    old = None
    if causes.wsl() == 1:
        old = troubles.WSL1
    elif unknown:
        kind = troubles.OLD_KERNEL_WSL if causes.wsl() else troubles.OLD_KERNEL
        old = kind.here(release=release, calls=", ".join(unknown))
    other = None
    try:
        linux.pivot_root("/nonexistent", "/nonexistent")
    except NotImplementedError as error:
        other = troubles.OTHER_MACHINE.here(said=error)
    except OSError:
        pass
    return [_row("kernel", EVERY, release, old), _row("architecture", EVERY, machine, other)]


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
        others = [_row(name, (), "", troubles.NO_HOST, LIMITED) for name in ("user ids", "memory bound")]
        return [_row("throwaway host", EVERY, "", causes.no_host(str(error))), *others]
    tried = f" (systemd-run: {Keeper.no_scope})" if Keeper.no_scope else ""
    bounds = f"cgroup {group} bounds memory and processes"
    bounds += ", in a scope that systemd has delegated" if scope else ""
    return [
        _row("throwaway host", EVERY, f"made in {took:.0f} ms: two levels of namespaces", None),
        _row("user ids", (), f"a host has {ids} of them", None if ids > 1 else causes.one_id(), LIMITED),
        _row("memory bound", ("04",), bounds, None if group else causes.no_cgroup(tried), LIMITED),
    ]


def _rootfs(scratch: Path) -> list[Capability]:
    from thinwalls import rootfs

    scratch.mkdir()
    began = time.monotonic()
    trouble = None
    try:
        rootfs.build(str(scratch))
    except OSError as error:  # rootfs.Unbuildable among them
        trouble = troubles.UNBUILDABLE.here(said=error, install=install("rootfs"))
    size = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) / 2**20
    good = f"built in {(time.monotonic() - began) * 1000:.0f} ms, {size:.0f} MB"
    return [_row("small rootfs", EVERY[1:], good, trouble)]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "thinwalls")


def _existing(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def _disk(_: Path) -> list[Capability]:
    return [
        _folder("disk: cache", _existing(_cache()), "set XDG_CACHE_HOME to a directory that is yours", False),
        _folder("disk: checkout", course.ROOT, "clone the course into a directory that is yours", True),
    ]


def _folder(name: str, folder: Path, instead: str, runs: bool) -> Capability:
    """Whether files can be kept in a folder, and how many. runs: programs are started from it too."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as trial:
            trial.write(b"\0" * 4096)
            trial.flush()
            os.chmod(trial.name, 0o640)
            keeps_modes = stat.S_IMODE(os.stat(trial.name).st_mode) == 0o640
        free = shutil.disk_usage(folder).free // 10**6
    except OSError as error:
        shut = troubles.FOLDER_SHUT.here(folder=folder, said=error.strerror, instead=instead)
        return _row(name, EVERY, "", shut)
    trouble, state = None, LIMITED
    if free < _LITTLE:
        trouble = troubles.LITTLE_DISK.here(free=free, folder=folder)
        state = MISSING if free < _TOO_LITTLE else LIMITED
    elif runs and os.statvfs(folder).f_flag & os.ST_NOEXEC:
        trouble = troubles.NOEXEC.here(folder=folder)
    elif not keeps_modes:
        trouble = troubles.NO_MODES.here(folder=folder, fstype=causes.file_system(folder), instead=instead)
    return _row(name, EVERY, f"{free} MB free in {folder}", trouble, state)


def _overlay(scratch: Path) -> list[Capability]:
    """An overlay as ./walls run IMAGE has it: the lower layer in the cache, the upper one on a tmpfs. Then one on disk."""
    cache, disk = _existing(_cache()), scratch.parent.parent
    lower = upper = None
    try:
        with tempfile.TemporaryDirectory(prefix=".thinwalls-doctor-", dir=cache) as below:
            said = _layers(scratch / "memory", Path(below), in_memory=True)
    except OSError as error:
        said = str(error.strerror)
    if said:
        lower = troubles.NO_OVERLAY.here(folder=cache, fstype=causes.file_system(cache), said=said)
    if said := _layers(scratch / "disk", scratch, in_memory=False):
        upper = troubles.NO_UPPER.here(folder=disk, fstype=causes.file_system(disk), said=said)
    return [
        _row("overlayfs", ("06",), f"a lower layer may be in {cache}", lower, LIMITED),
        _row("upper layer", (), f"may be in {disk}", upper, LIMITED),
    ]


def _layers(scratch: Path, lower: Path, in_memory: bool) -> str:
    """Mount an overlay, in new user and mount namespaces, and write to it; what went wrong, or ""."""
    scratch.mkdir(parents=True)

    def mount() -> None:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        below = os.open(lower, os.O_PATH)
        if in_memory:
            linux.mount("memory", scratch, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m")
        os.chdir(scratch)  # relative names: in the options, ":" and "," of a path would be read as something else
        for name in ("upper", "work", "merged"):
            os.mkdir(name)
        layers = f"lowerdir=/proc/self/fd/{below},upperdir=upper,workdir=work,userxattr"
        linux.mount("overlay", "merged", "overlay", 0, layers)
        Path("merged", f"{scratch.name}.thinwalls").write_text("above")

    return inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNS, mount).rpartition(": ")[2]


def _ip(_: Path) -> list[Capability]:
    """A bridge and a veth pair, made in a network namespace that goes with the child."""
    return [_tool("ip", "makes a bridge and a cable in a network namespace of its own", causes.no_ip)]


def _nft(_: Path) -> list[Capability]:
    """The kinds of rules that stage 5 has, in a network namespace that goes with the child."""
    return [_tool("nft", "translates addresses in a network namespace of its own", causes.no_nft)]


def _tool(name: str, does: str, try_it: Callable[[str], Trouble | None]) -> Capability:
    found = shutil.which(name, path=SEARCH)
    return _row(name, ("05",), f"{found} {does}", causes.no_tool(name, try_it), LIMITED if found else MISSING)


def _virtual_machine(_: Path) -> list[Capability]:
    names = (f"qemu-system-{platform.machine()}", "qemu-kvm")
    found = next((path for name in names if (path := shutil.which(name, path=SEARCH))), None)
    if found is None:
        return [_row("QEMU", (), "", troubles.NO_QEMU.here(install=install("QEMU")))]
    version = tell(found, "--version").partition("\n")[0]
    slow = None
    try:
        with _KVM.open("rb+", buffering=0) as device:
            os.close(fcntl.ioctl(device, _KVM_CREATE_VM, 0))
    except OSError as error:
        slow = troubles.NO_KVM.here(version=version, said=error.strerror)
    # That it gives a machine does not say that one boots: where this machine is virtual itself, it may not.
    good = f"{version}; /dev/kvm opens; whether a machine boots with it is tried by ./walls bench vm"
    return [_row("QEMU", (), good, slow, LIMITED)]


_CHECKS = (_python, _kernel, _host, _rootfs, _disk, _overlay, _ip, _nft, _virtual_machine)
