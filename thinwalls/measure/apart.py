"""How far apart containers are: what they own, what they cannot reach, by what they can talk, what they leave.

Copied to where containers are, beside ``inside``.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from stages.stage00_process import launch
from stages.stage03_mount_namespace import Volume
from stages.stage04_cgroups import Cgroup
from stages.stage05_networking import Isolated, Network
from thinwalls.wall import Program, Wall

from .inside import tell, walls, within

_ENV, SHARED, _PORT = {"PATH": "/bin:/usr/bin"}, "/srv/shared", 7000
_WORD, _LETTER = "a word", "k"
_KEY = 0x7468696E  # of a piece of System V shared memory
_BEAT, _PIPES = 0.1, 300  # a bit lasts so many seconds; it is 1 while so many pipes are open
_KERNELS = ("/proc", "/sys", "/dev")
_C = ctypes.CDLL(None, use_errno=True)
hashlib.sha256()  # loaded before any root changes

# A share of the machine (claim 4)


def shares() -> None:
    """A container's namespaces, own and shared, and what it may take, as the kernel's files say it."""
    names = sorted(os.listdir("/proc/self/ns"))
    here = {name: os.readlink(f"/proc/self/ns/{name}") for name in names}

    def look() -> Any:
        return {
            name: os.readlink(f"/proc/self/ns/{name}") for name in names if os.path.lexists(f"/proc/self/ns/{name}")
        }

    there = within(look)
    found: dict[str, Any] = {
        "own": [name for name in there if there[name] != here[name] and "_for_" not in name],
        "shared": [name for name in there if there[name] == here[name] and "_for_" not in name],
        "disk": within(_free, disposable=True),
        "disk of the machine": _free(),
    }
    cgroup = Cgroup(memory="64m", pids="32", cpus="0.5")
    if os.access(cgroup.directory("memory").parent, os.W_OK):
        limits = Limits(cgroup)
        launch(Program(["/bin/true"], _ENV, "/"), [cgroup, limits, *walls()])
        found["limits"] = limits.found
    tell(found)


class Limits(Wall):
    """What the kernel's files say of a cgroup while the container is in it."""

    def __init__(self, cgroup: Cgroup):
        self.cgroup = cgroup
        self.found: dict[str, str] = {}

    def outside(self, pid: int) -> None:
        """Read them."""
        self.found = {what: self.cgroup.file(what).read_text().strip() for what in ("memory", "pids", "quota")}


def _free() -> int:
    there = os.statvfs("/")
    return there.f_bavail * there.f_frsize


# What it cannot reach (claim 5)


def tries() -> None:
    """The same five tries on a victim, by a bare process beside it and out of a container."""
    os.makedirs("/tmp/victim", exist_ok=True)
    with open("/tmp/victim/file", "w") as file:
        file.write("a secret")
    reads, writes = os.pipe()
    victim = os.fork()
    if victim == 0:
        secret = ctypes.create_string_buffer(b"another secret")
        os.write(writes, str(ctypes.addressof(secret)).encode())
        time.sleep(1000)
    address = int(os.read(reads, 100))

    def attack() -> Any:
        return {name: _tried(each, victim, address) for name, each in _TRIES.items()}

    try:
        tell({"process": _forked(attack), "container": within(attack)})
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


def _forked(function: Callable[[], Any]) -> Any:
    """What a function gives in a child process."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, json.dumps(function()).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


def _tried(each: Callable[[int, int], str], victim: int, address: int) -> str:
    try:
        return each(victim, address)
    except OSError as error:
        return f"no: {os.strerror(error.errno or 0)}"


def _file(_: int, __: int) -> str:
    with open("/tmp/victim/file") as file:
        return f"yes: {file.read()}"


def _processes(victim: int, _: int) -> str:
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return "yes" if victim in seen else "no: it is not in /proc"


def _memory(victim: int, address: int) -> str:
    with open(f"/proc/{victim}/mem", "rb", 0) as file:
        file.seek(address)
        return f"yes: {file.read(14).decode()}"


def _trace(victim: int, _: int) -> str:
    attach, detach = 16, 17  # PTRACE_ATTACH, PTRACE_DETACH: ptrace(2)
    _C.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    if _C.ptrace(attach, victim, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(victim, 0x40000000)  # __WALL
    _C.ptrace(detach, victim, None, None)
    return "yes"


def _kill(victim: int, _: int) -> str:
    os.kill(victim, signal.SIGCONT)  # the kernel asks the same as for SIGKILL, and the others need their victim
    return "yes"


_TRIES = {
    "read its file": _file,
    "see that it runs": _processes,
    "read its memory (/proc/PID/mem)": _memory,
    "trace it (ptrace)": _trace,
    "send it a signal (kill)": _kill,
}


# By what two containers can talk (claim 6)


def talks(cabled: bool) -> None:
    """Container B tries by every way to hear what container A says: on one bridge, and each in a network of its own.

    cabled: whether this machine can lay cables (it has ip(8) and nft(8)).
    """
    os.makedirs(SHARED, exist_ok=True)
    os.chmod(SHARED, 0o777)
    tell({"apart": _pair(Isolated), "on one bridge": _pair(Network) if cabled else None})


def _pair(network: Callable[[], Isolated]) -> dict[str, str]:
    volumes = [Volume(SHARED, "/shared", False)]
    reads, writes = os.pipe()
    ends, hold = os.pipe()
    speaker = os.fork()
    if speaker == 0:
        os.close(hold)
        try:
            cable = network()
            address = getattr(getattr(cable, "lease", None), "address", "127.0.0.1")
            within(lambda: _speak(writes, ends, address), cable, volumes, disposable=True)
        finally:
            os._exit(1)
    os.close(writes)
    try:
        address = os.read(reads, 100).decode()
        if not address:
            raise RuntimeError("container A did not come up")
        heard: dict[str, str] = within(lambda: _listen(address), network(), volumes, disposable=True)
        return heard
    finally:
        os.close(hold)
        os.close(reads)
        os.waitpid(speaker, 0)


def _speak(ready: int, ends: int, address: str) -> None:
    """In container A: say a word in every way there is, until ``ends`` is closed."""
    servers: list[socket.socket] = [socket.create_server(("", _PORT)), socket.socket(socket.AF_UNIX)]
    servers[1].bind("\0thinwalls")
    servers[1].listen()
    _C.shmget(_KEY, ctypes.c_size_t(4096), 0o1666)  # IPC_CREAT, for everybody
    for path in ("/tmp/word", "/shared/word"):
        with open(path, "w") as file:
            file.write(_WORD)
    os.write(ready, address.encode())
    held: list[int] = []
    while True:
        bit = ord(_LETTER) >> int(time.time() / _BEAT) % 8 & 1
        if bit and not held:
            held = [fd for _ in range(_PIPES) for fd in os.pipe()]
        elif not bit:
            while held:
                os.close(held.pop())
        watched: list[Any] = [ends, *servers]
        ready_now = select.select(watched, [], [], 0.005)[0]
        if ends in ready_now:
            return
        for server in servers:
            if server in ready_now:
                peer = server.accept()[0]
                peer.sendall(_WORD.encode())
                peer.close()


def _listen(address: str) -> dict[str, str]:
    """In container B: what is heard, by the way on which it was listened."""
    found = {}
    for way, each in _WAYS.items():
        try:
            found[way] = each(address)
        except OSError as error:
            found[way] = f"nothing: {error.strerror or error}"
    return found


def _tcp(address: str) -> str:
    with socket.socket() as peer:  # create_connection would load a module, and this root is foreign
        peer.settimeout(3)
        peer.connect((address, _PORT))
        return peer.recv(100).decode()


def _abstract(_: str) -> str:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect("\0thinwalls")
        return peer.recv(100).decode()


def _shared_memory(_: str) -> str:
    if _C.shmget(_KEY, ctypes.c_size_t(0), 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "it is there"


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _open_files(_: str) -> str:
    """A letter, bit by bit: how many files are open on the whole machine, at moments that the clock gives to both."""
    counts = []
    start = (int(time.time() / (8 * _BEAT)) + 1) * 8 * _BEAT
    for bit in range(8):
        time.sleep(max(0, start + (bit + 0.6) * _BEAT - time.time()))
        counts.append(int(_read("/proc/sys/fs/file-nr").split()[0]))
    middle = (min(counts) + max(counts)) / 2
    return "the letter " + repr(chr(sum(1 << bit for bit, count in enumerate(counts) if count > middle)))


_WAYS = {
    "TCP": _tcp,
    "a file in a volume of both": lambda _: _read("/shared/word"),
    "a file in /tmp": lambda _: _read("/tmp/word"),
    "an abstract Unix socket": _abstract,
    "System V shared memory": _shared_memory,
    "counting the machine's open files": _open_files,
}


# The same image again (claim 8)


def twice() -> None:
    """Three containers of one image: what each has at its start, when the one before it has changed all it could."""
    first, second, third = (within(each, disposable=True) for each in (_digest, _change, _digest))
    kept = within(_change)  # the image itself as its root: this one is not disposable
    tell(
        {
            "first": first,
            "second, changed": second,
            "third": third,
            "without a layer, changed": kept,
            "without a layer, next": within(_digest),
        }
    )


def _change() -> str:
    with open("/etc/passwd", "w") as file:
        file.write("nobody is left\n")
    os.mkdir("/etc/new")
    os.remove("/etc/group")
    return _digest()


def _digest() -> str:
    """A hash of all names and contents, but for what the kernel puts there."""
    found = hashlib.sha256()
    for top, directories, files in os.walk("/"):
        directories[:] = sorted(name for name in directories if os.path.join(top, name) not in _KERNELS)
        for name in [*directories, *sorted(files)]:
            path = os.path.join(top, name)
            found.update(path.encode())
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found.update(file.read())
    return found.hexdigest()[:16]
