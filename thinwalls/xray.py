"""The x-ray: which walls stand around a process of this machine, whoever made it, with the kernel's evidence for each.

A wall has a state, and three of the four are relative to a second process, the reference:

- own: the process differs from the reference in it;
- shared: it has the same as the reference;
- off: there is no such wall around it, nothing is taken away (or this kernel has none of the kind);
- unknown: the kernel does not let the caller see it, and the evidence says so.

Whatever a process, an image or a hostname says of itself is hostile text here, and is escaped for where it goes.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinwalls import drawing, facts

if TYPE_CHECKING:  # rich takes longer to load than all that is read here
    from rich.table import Table

SCHEMA = "thinwalls/xray/v1"

# linux/capability.h, capabilities(7): a capability's number is its position.
CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap "
    "mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()


class NotThere(LookupError):
    """There is no process to look at; the text is a sentence that says why."""


@dataclass(frozen=True)
class Wall:
    """One row: ``fact`` is what was compared (JSON types; None: unknown), ``evidence`` the same as a short phrase."""

    name: str
    state: str  # "own", "shared", "off" or "unknown"
    evidence: str
    fact: Any
    beside: str  # the evidence on the reference

    @property
    def label(self) -> str:
        """Its name for people."""
        return label(self.name)


@dataclass(frozen=True)
class Reference:
    """The process that "own" and "shared" refer to."""

    pid: int
    command: str
    why: str  # "given", "pid 1" (the machine's first process), or "caller" (PID 1 may not be read)


@dataclass(frozen=True)
class XRay:
    """A process and the walls around it, the outermost first."""

    pid: int
    command: str
    walls: tuple[Wall, ...]
    reference: Reference

    def __getitem__(self, name: str) -> Wall:
        return next(wall for wall in self.walls if wall.name == name)


# One function for each kind of wall: the fact, the evidence, and whether there is a wall at all.
Reading = tuple[Any, str, bool]


def _namespace(kind: str) -> Callable[[facts.Process], Reading]:
    def read(process: facts.Process) -> Reading:
        inode = process.namespace(kind)
        if inode is None:
            return "none", f"this kernel has no {kind} namespaces", False
        more = _ABOUT[kind](process) if kind in _ABOUT else ""
        return inode, f"{kind}:[{inode}]" + (f", {more}" if more else ""), True

    return read


def _numbers(process: facts.Process) -> str:
    *outside, inside = process.status()["NSpid"].split()
    return f"number {inside} inside" if outside else f"number {inside}"


def _hostname(process: facts.Process) -> str:
    try:
        return process.hostname()
    except PermissionError:
        return "hostname may not be read"


def _links(process: facts.Process) -> str:
    links = process.links()
    return f"links {_few(links, 4)}" if links else "no links"


_ABOUT: dict[str, Callable[[facts.Process], str]] = {
    "pid": _numbers,
    "mnt": lambda process: f"{len(process.mounts())} mounts in sight",
    "uts": _hostname,
    "net": _links,
}


def _ids(process: facts.Process) -> Reading:
    found = process.id_map()
    root = [outside for inside, outside, count in found if inside == 0 and count]
    total = sum(count for _, _, count in found)
    if not found:
        return [], "no user id is mapped", True
    text = f"its 0 is uid {root[0]} outside" if root else "it has no 0"
    text += f", {total} {'id' if total == 1 else 'ids'}" if total < 2**32 - 1 else ", and every id itself"
    return [list(line) for line in found], text, found != [(0, 0, 2**32 - 1)]


def _root(process: facts.Process) -> Reading:
    root, path = process.root(), process.root_path()
    fact = [os.major(root.device), os.minor(root.device), root.inode]
    if root == facts.File.at("/"):
        return fact, "this machine's /", True
    if path != "/":
        return fact, f"chroot to {path}", True
    kinds = [mount.fstype for mount in process.mounts() if mount.point == "/"]
    return fact, f"pivoted: its / is a mount ({kinds[-1]})" if kinds else "another / than this machine's", True


def _paths(process: facts.Process) -> Reading:
    found = process.kernel_files()
    first = ("/sys", "/proc/sys", "/proc/kcore")
    paths = sorted(found, key=lambda path: (path not in first, path))
    said = {word: [path for path in paths if found[path] == word] for word in ("absent", "read-only", "masked")}
    text = ", ".join(f"{word} {_few(these, 2)}" for word, these in said.items() if these)
    return found, text or "/proc and /sys stand open", bool(found)


def _cgroup_path(process: facts.Process) -> Reading:
    paths = process.cgroups()
    places: dict[str, list[str]] = {}
    for controller, path in sorted(paths.items()):
        places.setdefault(path, []).append(controller.removeprefix("name=") or "v2")
    deep = [f"{path} ({_few(names, 3)})" for path, names in places.items() if path != "/"]
    return paths, _few(deep, 2, ", ") or "/", True


def _few(names: list[str], most: int, between: str = " ") -> str:
    return between.join([*names[:most], *([f"+{len(names) - most}"] if len(names) > most else [])])


def _limits(process: facts.Process) -> Reading:
    found = process.limits()
    shown = {"memory": (2**20, " MiB"), "pids": (1, ""), "cpu": (1, "")}
    text = [f"{name} {found[name][0] / unit:.10g}{word}" for name, (unit, word) in shown.items() if name in found]
    fact = {name: list(limit) for name, limit in found.items()}
    return fact, ", ".join(text) or "no limit on memory, pids or cpu", bool(found)


def _capabilities(process: facts.Process) -> Reading:
    known = set(range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1))
    effective, bounding = process.capabilities("Eff"), process.capabilities("Bnd")
    text = f"effective {_count(effective, known)}, bounding {_count(bounding, known)}"
    if effective == bounding:
        text = f"effective, bounding: {_count(effective, known)}"
    return {"effective": _names(effective), "bounding": _names(bounding)}, text, not known <= effective & bounding


def _names(bits: set[int]) -> list[str]:
    return [CAPABILITIES[bit] if bit < len(CAPABILITIES) else f"cap_{bit}" for bit in sorted(bits)]


def _count(held: set[int], known: set[int]) -> str:
    missing = known - held
    if not held or not missing:
        return "all" if held else "none"
    if len(held) <= 3:
        return " ".join(_names(held))
    return f"all but {_names(missing)[0]}" if len(missing) == 1 else f"{len(held)} of {len(known)}"


def _no_new_privs(process: facts.Process) -> Reading:
    on = process.status().get("NoNewPrivs") == "1"
    return on, "set: exec gains nothing" if on else "not set: set-uid programs work", on


def _seccomp(process: facts.Process) -> Reading:
    # How many filters is all that the kernel tells: two processes with as many are taken to have the same.
    status = process.status()
    mode, count = status.get("Seccomp", "0"), int(status.get("Seccomp_filters", "0"))
    filters = f"{count} filter{'s' * (count != 1)}" if count else "filtered"
    text = {"0": "no filter", "1": "strict: read, write and exit only"}.get(mode, f"system calls: {filters}")
    return {"mode": {"0": "off", "1": "strict"}.get(mode, "filter"), "filters": count}, text, mode != "0"


def _lsm(process: facts.Process) -> Reading:
    label = process.label()
    return label, label or "no security module names it", label not in ("", "unconfined")


# The order is that of the drawing, from the outside in: who it is, what it can name, what it may use and do.
WALLS: dict[str, Callable[[facts.Process], Reading]] = {
    "user": _namespace("user"),
    "ids": _ids,
    "pid": _namespace("pid"),
    "mount": _namespace("mnt"),
    "root": _root,
    "paths": _paths,
    "uts": _namespace("uts"),
    "ipc": _namespace("ipc"),
    "net": _namespace("net"),
    "time": _namespace("time"),
    "cgroup": _namespace("cgroup"),
    "cgroup_path": _cgroup_path,
    "limits": _limits,
    "capabilities": _capabilities,
    "no_new_privs": _no_new_privs,
    "seccomp": _seccomp,
    "lsm": _lsm,
}
_LABELS = {"ids": "user ids", "paths": "kernel files", "cgroup_path": "cgroup path", "lsm": "LSM label"}


def label(wall: str) -> str:
    """The name of a wall for people."""
    return _LABELS.get(wall, wall)


def examine(pid: int) -> XRay:
    """The walls around a process, compared with this machine's PID 1, or with the caller where that may not be read.

    Raises NotThere for what has no walls to show: no process, one that has ended, a kernel thread.
    """
    found = _look(pid)
    try:
        facts.Process(1).namespace("mnt")
        facts.Process(1).root()
        first, why = 1, "pid 1"
    except OSError:
        first, why = os.getpid(), "caller"
    other = compare(found, _look(first))
    return replace(other, reference=replace(other.reference, why=why))


def compare(a: XRay, b: XRay) -> XRay:
    """The x-ray ``a`` with ``b`` as its reference: what was read of both stays, the states are new."""
    walls = []
    for wall, other in zip(a.walls, b.walls, strict=True):
        state = wall.state
        if wall.fact is not None and state != "off":
            state = "unknown" if other.fact is None else "shared" if other.fact == wall.fact else "own"
        walls.append(replace(wall, state=state, beside=other.evidence))
    return replace(a, walls=tuple(walls), reference=Reference(b.pid, b.command, "given"))


def _look(pid: int) -> XRay:
    """The walls around a process, with itself as the reference."""
    try:
        process = facts.Process(pid)
        command = process.name()
        if process.kernel_thread():
            raise NotThere(f"{pid} ({_printable(command)}) is a kernel thread: no process, so it has no walls.")
        walls = tuple(_wall(name, process) for name in WALLS)
        return XRay(pid, command, walls, Reference(pid, command, "given"))
    except (facts.Ended, OverflowError):
        if pid > 0 and os.path.exists(f"/proc/{pid}"):
            raise NotThere(f"Process {pid} is a zombie: it has ended, and only its exit status is left.") from None
        raise NotThere(f"There is no process {pid}.") from None
    except OSError as error:
        if pid > 0 and os.path.exists(f"/proc/{pid}"):
            raise NotThere(f"{pid} is no process, but a thread of one.") from None
        raise NotThere(f"There is no process {pid} to be seen here ({error.strerror}).") from None


def _wall(name: str, process: facts.Process) -> Wall:
    try:
        fact, evidence, stands = WALLS[name](process)
    except facts.Ended:
        raise
    except PermissionError:
        fact, evidence, stands = None, f"may not be read by uid {os.geteuid()}", True
    except OSError as error:
        fact, evidence, stands = None, f"cannot be read: {error.strerror}", True
    return Wall(name, "unknown" if fact is None else "shared" if stands else "off", evidence, fact, evidence)


def as_json(xray: XRay) -> dict[str, Any]:
    """The x-ray as plain JSON types. The keys are stable::

        {"schema": "thinwalls/xray/v1", "pid": int, "command": str,
         "reference": {"pid": int, "command": str, "why": "given|pid 1|caller"},
         "walls": {NAME: {"state": "own|shared|off|unknown", "evidence": str, "beside": str, "fact": ...}}}

    NAME: user, ids, pid, mount, root, paths, uts, ipc, net, time, cgroup, cgroup_path, limits, capabilities,
    no_new_privs, seccomp, lsm. ``evidence`` and ``beside`` (the same of the reference) are for people and may be
    reworded; ``fact`` is what was compared, null where unknown: the inode of a namespace; [[inside, outside, count]] of
    ids; [major, minor, inode] of the root; {path: "read-only|masked|absent"}; {controller: path}; {resource: [amount,
    group]} of limits; {"effective": [name], "bounding": [name]}; {"mode": "off|strict|filter", "filters": int}.
    Strings are as the kernel gave them, with what is not Unicode as backslash escapes.
    """
    walls = {wall.name: {k: v for k, v in vars(wall).items() if k != "name"} for wall in xray.walls}
    plain = {"pid": xray.pid, "command": xray.command, "reference": vars(xray.reference), "walls": walls}
    return {"schema": SCHEMA, **_plain(plain)}


def _plain(value: Any) -> Any:
    """The same without lone surrogates, which JSON text must not have."""
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _printable(text: str) -> str:
    """The text with control, bidirectional and other invisible characters escaped, so that it acts on no terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _against(xray: XRay) -> str:
    """A sentence on what "own" means in this x-ray."""
    other, name = xray.reference, _printable(xray.reference.command)
    if xray.pid == other.pid:
        return f"Compared with itself ({other.pid})."
    what = {
        "given": f"process {other.pid} ({name})",
        "pid 1": f"PID 1 ({name})",
        "caller": "the x-ray's process (PID 1 may not be read)",
    }
    return f"own: differs from {what[other.why]}; shared: same."


def as_table(xray: XRay) -> "Table":
    """The x-ray for a terminal; with a column for the reference if one was given."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, never str: in a str rich would look for its own markup.
    title = Text(f"{xray.pid} {_printable(xray.command)}")
    table = Table(title=title, caption=Text(_against(xray)), box=box.SIMPLE_HEAD)
    table.add_column("wall", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("evidence" if xray.reference.why != "given" else Text(str(xray.pid)), overflow="fold")
    if xray.reference.why == "given":
        table.add_column(Text(str(xray.reference.pid)), overflow="fold")
    styles = {"own": "bold", "shared": "", "off": "dim", "unknown": "italic"}
    for wall in xray.walls:
        cells = [wall.label, wall.state, _printable(wall.evidence), _printable(wall.beside)]
        table.add_row(*(Text(cell) for cell in cells[: len(table.columns)]), style=styles[wall.state])
    return table


def as_svg(xray: XRay) -> str:
    """The x-ray as a drawing, an SVG element of fixed width: the process in the middle, its walls around it."""
    rows = [(wall.label, wall.state, _printable(wall.evidence)) for wall in xray.walls]
    process = f"{xray.pid} {_printable(xray.command)}"
    return drawing.walls(f"xray-{xray.pid}", process, f"The walls around process {process}", _against(xray), rows)


def main(pid: str | None = None, pid2: str | None = None, json: bool = False, svg_file: str | None = None) -> int:
    """`./walls xray [PID [PID2]] [--json] [--svg FILE]`; without PID, the process that called. The exit status."""
    try:
        found = examine(_number(pid) if pid else os.getppid())
        if pid2:
            found = compare(found, _look(_number(pid2)))
        if svg_file:
            Path(svg_file).write_text(as_svg(found), encoding="utf-8")
    except (NotThere, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The drawing cannot be written to {_printable(str(svg_file))}: {error.strerror}.", file=sys.stderr)
        return 2
    if json:
        print(dumps(as_json(found), indent=2))
    else:
        from rich.console import Console

        Console(highlight=False).print(as_table(found))
    return 0


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"'{_printable(text)}' is no process id: a number is needed.")
    return int(text[:20])
