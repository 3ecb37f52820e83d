"""A whole container of this course beside the same image in somebody else's, wall by wall: what the last lesson shows.

A small image is pulled from a registry on loopback and started by ``./walls run`` with every flag that makes a wall.
Then podman or bubblewrap starts a program in the tree that was unpacked, and both are x-rayed while they run.
Afterwards nothing is left: the images, and all that podman keeps, lie in a directory that is emptied.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from thinwalls import cgroupfs, course, rootfs, xray
from thinwalls.host import SLOWER, Keeper
from thinwalls.registry import Registry

_PATIENCE = 30 * SLOWER  # seconds until a container has to be there
_SEARCH = "/usr/local/bin:/usr/bin:/bin"
_LIMITS = {"podman": ("--memory=64m", "--pids-limit=32", "--cpus=0.5"), "walls": ("-m64m", "--pids=32", "--cpus=0.5")}
# What the two gave on another machine: Debian 12, podman 4.3.1 (with runc) and bubblewrap 0.8.0, started by root.
# A word for each wall, in the order of xray.WALLS; and the evidence for some.
_WHERE = "Debian 12, by root"
_RECORDED = {
    "podman": "shared off own own own own own own own shared shared own own own off own off",
    "bwrap": "own own own own own own own own own shared own shared off shared own off off",
}
_EVIDENCE = {
    "podman": {"capabilities": "effective, bounding: 11 of 41", "seccomp": "system calls: 1 filter"},
    "bwrap": {"capabilities": "effective, bounding: as its starter has them", "seccomp": "no filter"},
}


class _Failed(Exception):
    """A container did not come up; the text is what its program said."""


def show(impl: str = "", peers: Sequence[str] = ("podman", "bwrap")) -> dict[str, dict[str, str]]:
    """Print a table: for each wall what it is around a container of ``impl`` and around one of each peer. Gives it too.

    impl: as for ``./walls run``; "": as the notebooks have it, the stages or what THINWALLS_IMPL names. The words are
    an x-ray's: own, shared (with the machine's first process), off, unknown. A peer that this machine lacks, or that
    does not start here, is shown as it was recorded elsewhere, and that is said. Where no container of ours comes up,
    that is said instead, and the table is empty.
    """
    columns: dict[str, dict[str, tuple[str, str]]] = {}
    notes = []
    with tempfile.TemporaryDirectory(prefix="thinwalls-beside-") as cache:
        try:
            with _ours(impl or os.environ.get("THINWALLS_IMPL") or "stages", Path(cache)) as (pid, tree):
                columns["yours"] = _states(pid)
                for peer in peers:
                    columns[peer], note = _peer(peer, tree, Path(cache))
                    notes += note
        except _Failed as error:
            print(f"There is no container to look at: {error}")
            return {}
    print(f"{'wall':<14}" + "".join(f"{name:<10}" for name in columns).rstrip())
    for wall in xray.WALLS:
        words = "".join(f"{states[wall][0]:<10}" for states in columns.values())
        print(f"{xray.label(wall):<14}{words}".rstrip())
    for wall in ("capabilities", "seccomp"):
        for name, states in columns.items():
            print(f"{xray.label(wall)}, {name}: {states[wall][1]}")
    print(*notes, sep="\n", end="\n" * bool(notes))
    return {name: {wall: state for wall, (state, _) in states.items()} for name, states in columns.items()}


def _peer(peer: str, tree: Path, place: Path) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """What is around a container of somebody else's, and what has to be said of it."""
    try:
        if not shutil.which(peer, path=_SEARCH):
            raise _Failed("it is not on this machine")
        with _theirs(peer, tree, place) as pid:
            return _states(pid), []
    except _Failed as error:
        pairs = zip(xray.WALLS, _RECORDED[peer].split(), strict=True)
        found = {wall: (state, _EVIDENCE[peer].get(wall, "")) for wall, state in pairs}
        return found, [f"{peer} did not run here, and is shown as it was recorded on {_WHERE}: {error}"]


def _states(pid: int) -> dict[str, tuple[str, str]]:
    return {wall.name: (wall.state, wall.evidence) for wall in xray.examine(pid).walls}


@contextlib.contextmanager
def _ours(impl: str, cache: Path) -> Iterator[tuple[int, Path]]:
    """A container of ``./walls run``: its program, and the tree of its image."""
    environment = {**os.environ, "PYTHONPATH": str(course.ROOT), "XDG_CACHE_HOME": str(cache)}
    walls = [sys.executable, "-m", "thinwalls.cli"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(rootfs.cached(), ".")
    with Keeper() as keeper, socket.create_server(("127.0.0.1", 0)) as free:
        limits = _LIMITS["walls"] if keeper.cgroup else ()
        publish = f"-p{free.getsockname()[1]}:80"
    with Registry() as registry:
        registry.add_image("house", "1", [packed.getvalue()], {"Cmd": ["sleep", "60"]})
        name = f"{registry.host}/house:1"
        sleep = ["sleep", f"600.{os.getpid()}"]
        try:
            command = [*walls, "run", "--impl", impl, *limits, publish, "--name=box", name, *sleep]
            with _running(command, sleep, environment) as pid:
                (tree,) = (cache / "thinwalls" / "images" / "trees").iterdir()
                yield pid, tree / "rootfs"
        finally:
            subprocess.run([*walls, "forget"], cwd=course.ROOT, env=environment, capture_output=True)


@contextlib.contextmanager
def _theirs(peer: str, tree: Path, place: Path) -> Iterator[int]:
    """A container of somebody else's with the same root file system: its program. place: where podman keeps its own."""
    sleep = ["sleep", f"{601 + len(peer)}.{os.getpid()}"]
    inside = ["--unshare-all", "--die-with-parent", "--hostname", "box", "--bind", str(tree), "/"]
    commands = {"bwrap": [["bwrap", *inside, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *sleep]]}
    # Neither limits nor rlimits as podman would have them are to be had everywhere, nor does crun start everywhere.
    low = ("--runtime=runc", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
    variants = (_LIMITS["podman"], (), (*_LIMITS["podman"], *low), low)
    # Not into the caller's own store, home or runtime directory. vfs: overlay would leave a mount of the store behind.
    (place / "run").mkdir(mode=0o700, exist_ok=True)
    environment = {name: word for name, word in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run")}
    store = [f"--{key}={place / 'podman' / key}" for key in ("root", "runroot", "tmpdir")]
    podman = ["podman", *store, "--storage-driver=vfs", "--events-backend=none"]
    run = [*podman, "run", "--rm", "--hostname=box"]
    group = f"thinwalls-beside-{os.getpid()}"
    if os.geteuid() == 0:  # or it makes a bridge, rules and a cgroup for all of its containers, which stay
        run = [*podman, "--cgroup-manager=cgroupfs", *run[len(podman) :], "--network=none", f"--cgroup-parent=/{group}"]
    commands["podman"] = [[*run, *options, "--rootfs", str(tree), *sleep] for options in variants]
    try:
        for number, command in enumerate(commands[peer], start=1):
            try:
                with _running(command, sleep, environment) as pid:
                    yield pid
                return
            except _Failed:
                if number == len(commands[peer]):
                    raise
    finally:
        if peer == "podman" and os.geteuid() == 0:
            cgroupfs.remove_everywhere(group)
        elif peer == "podman":  # ends the process that keeps the namespaces of a user's containers
            subprocess.run([*podman, "system", "migrate"], env=environment, capture_output=True)


@contextlib.contextmanager
def _running(command: list[str], sleep: list[str], environment: dict[str, str]) -> Iterator[int]:
    """Start a program that starts ``sleep`` in a container; gives the process that sleeps, and ends both."""
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(
            command, cwd=course.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        ) as started:
            program = None
            try:
                end = time.monotonic() + _PATIENCE
                while (program := _sleeping(sleep)) is None:
                    if started.poll() is not None or time.monotonic() > end:
                        said.seek(0)
                        lines = said.read(4096).strip().splitlines() or ["it did not come up"]
                        raise _Failed("".join(each for each in lines[-1] if each.isprintable())[:200])
                    time.sleep(0.02)
                yield program[0]
            finally:
                # The program is ended, not whoever started it: that one still has to tidy up.
                if program:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(program[1], signal.SIGKILL)
                    os.close(program[1])
                else:
                    started.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    started.wait(_PATIENCE)
                started.kill()


def _sleeping(sleep: list[str]) -> tuple[int, int] | None:
    """The process that was started with just these words: its number, and a pidfd."""
    words = "\0".join([*sleep, ""]).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == words:
                held = os.pidfd_open(int(path.parent.name))
                if path.read_bytes() == words:  # it is that one that is held
                    return int(path.parent.name), held
                os.close(held)
    return None
