"""What is measured where containers are: in a throwaway host, and in a virtual machine's guest, by the same functions.

This file is copied to both, into a package ``measured``, and nothing else imports it. Each function prints what it
found as a line of JSON.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stages.stage00_process import launch, run
from stages.stage02_pid_namespace import Init, Pids, Uts
from stages.stage03_mount_namespace import Caps, Filesystem, Sealed, Volume
from stages.stage04_cgroups import Cgroup
from stages.stage05_networking import Isolated
from stages.stage06_image_pull import Disposable
from thinwalls import linux
from thinwalls.wall import Program, Wall

IMAGE, _ROOT, _ENV = "/srv/rootfs", "/srv/root", {"PATH": "/bin:/usr/bin"}


class Within(Wall):
    """A function that is called behind all other walls, before the program; what it gave reaches the launcher's side."""

    def __init__(self, function: Callable[[], Any]):
        self.function = function
        self.reads, self.writes = os.pipe()

    def inside(self) -> None:
        """Call it. What it raises is what it gave."""
        try:
            given = self.function()
        except OSError as error:
            given = error.strerror
        os.write(self.writes, json.dumps(given).encode())

    def given(self) -> Any:
        """What it gave."""
        os.close(self.writes)
        with os.fdopen(self.reads) as file:
            return json.loads(file.read() or "null")


def walls(network: Wall | None = None, volumes: Sequence[Volume] = (), disposable: bool = False) -> list[Wall]:
    """A container's, without limits: name, processes, network, files, power."""
    os.makedirs(_ROOT, exist_ok=True)
    files: list[Wall] = [Disposable(IMAGE, _ROOT)] if disposable else []
    files.append(Filesystem(_ROOT if disposable else IMAGE, volumes))
    return [Pids(), network or Isolated(), Uts("measured"), *files, Caps(), Sealed(), Init()]


def within(function: Callable[[], Any], *given: Any, **options: Any) -> Any:
    """What ``function`` gives in a container."""
    look = Within(function)
    with open(os.devnull, "r+") as null:
        status = launch(Program(["/bin/true"], _ENV, "/", null.fileno()), [*walls(*given, **options), look])
    answer = look.given()
    if status:
        raise RuntimeError(f"the container ended with {status}")
    return answer


def own_root() -> None:
    """In a guest, first of all: turn away from the root that a kernel begins with, for pivot_root(2) refuses to.

    It is bound onto itself, and that mount is moved on top, as switch_root(8) does.
    """
    os.mkdir("/turned")
    linux.mount("/", "/turned", None, linux.MS_BIND | linux.MS_REC)
    os.chdir("/turned")
    linux.mount(".", "/", None, linux.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


# Start, and many at a time (claims 7, 9 and 11)


def starts(repetitions: int) -> None:
    """Seconds from here to the end of a program that does nothing: as a process, and in a container, by turns."""
    found: dict[str, list[float]] = {"process": [], "container": []}
    true = Program(["/bin/true"], _ENV, "/")
    for turn in range(repetitions + 1):
        for name in found:
            began = time.perf_counter()
            if run(true) if name == "process" else launch(true, walls()):
                raise RuntimeError(f"the {name} did not end with 0")
            if turn:  # the first one warms up
                found[name].append(round(time.perf_counter() - began, 6))
    tell(found)


def calls() -> None:
    """How many system calls one start takes, of all its processes, as strace(1) counts them in a copy of this one."""
    found = {}
    true = Program(["/bin/true"], _ENV, "/")
    starts: dict[str, Callable[[], int]] = {"process": lambda: run(true), "container": lambda: launch(true, walls())}
    for name, start in starts.items():
        waits, go = os.pipe()
        copy = os.fork()
        if copy == 0:
            os.read(waits, 1)
            start()
            os._exit(0)
        table = f"/tmp/{name}.calls"
        with subprocess.Popen(["strace", "-f", "-c", "-q", "-o", table, "-p", str(copy)]) as strace:
            while strace.poll() is None and not _traced(copy):
                time.sleep(0.01)
            os.write(go, b"1")
            os.waitpid(copy, 0)
        with open(table) as file:
            found[name] = int(file.read().rstrip().split("\n")[-1].split()[3])  # 100.00 seconds usecs/call CALLS
        os.close(waits)
        os.close(go)
    tell(found)


def _traced(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as file:
        return "TracerPid:\t0\n" not in file.read()


def many(counts: Sequence[int], kind: str, limited: bool = False, rest: float = 0.0) -> None:
    """Start N of a kind ("process" or "container") at once, for each N: seconds, memory; and end them.

    limited: each has a cgroup, whose memory is counted. rest: seconds to leave them in peace, for others to look.
    """
    for count in counts:
        cgroups: list[Cgroup] = []
        before = _pss(os.getpid())
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            ends = [stack.enter_context(_started(kind, cgroups, limited)) for _ in range(count)]
            for up in ends:
                if not select.select([up], [], [], 60)[0] or os.read(up, 3) != b"up\n":
                    raise RuntimeError(f"a {kind} did not start")
            took = time.perf_counter() - began
            found = {
                "n": count,
                "up": round(took, 5),
                "pss": sum(map(_pss, _descendants(os.getpid()))) + _pss(os.getpid()) - before,
                "cgroup": sum(map(_charged, cgroups)) if limited else None,
            }
            say(f"up {count} {took:.5f}")
            time.sleep(rest)
            began = time.perf_counter()
        tell(found | {"down": round(time.perf_counter() - began, 5)})


@contextlib.contextmanager
def _started(kind: str, cgroups: list[Cgroup], limited: bool) -> Iterator[int]:
    """A process or container that says "up" and sleeps, until the end of the block; gives what it says that on."""
    around = walls() if kind == "container" else []
    if limited:
        cgroup = Cgroup(memory="64m")
        cgroups.append(cgroup)
        around.insert(0, cgroup)
    reads, writes = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        try:
            program = Program(["/bin/sh", "-c", "echo up; exec sleep 1000"], _ENV, "/", 0, writes, writes)
            os._exit(launch(program, around) if around else run(program))
        finally:
            os._exit(1)
    os.close(writes)
    try:
        yield reads
    finally:
        os.close(reads)
        for pid in _children(launcher):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(launcher, 0)


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(each) for each in file.read().split()]
    except FileNotFoundError:
        return []


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [child, *_descendants(child)]
    return found


def _pss(pid: int) -> int:
    """Bytes of memory, what is shared with others divided by their number (proc_pid_smaps(5))."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _charged(cgroup: Cgroup) -> int:
    """Bytes that the kernel charges to a cgroup, its own for it included."""
    directory = cgroup.directory("memory")
    for name in ("memory.current", "memory.usage_in_bytes"):
        with contextlib.suppress(FileNotFoundError):
            return int((directory / name).read_text())
    return 0


# What a program can learn (claims 1, 4 and 10)


def asked(script: str) -> None:
    """What the lines of ``script`` print, as a bare process here, and in a container."""
    tell({"process": _printed(script, []), "container": _printed(script, walls())})


def _printed(script: str, around: Sequence[Wall]) -> str:
    reads, writes = os.pipe()
    program = Program(["/bin/sh", "-c", script], _ENV, "/", 0, writes, writes)
    if os.fork() == 0:
        os.close(reads)
        try:
            os._exit(launch(program, around))
        finally:
            os._exit(1)
    os.close(writes)
    with os.fdopen(reads) as file:
        text = file.read()
    os.wait()
    return text


def say(text: str) -> None:
    """Print a line for whoever measures."""
    print(f"thinwalls: {text}", flush=True)


def tell(found: dict[str, Any]) -> None:
    """Print what was found as one line of JSON."""
    say(json.dumps(found))
