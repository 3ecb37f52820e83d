"""``./walls run``: a program behind the walls of all stages that are built, on a throwaway host.

The launcher and the walls are the learner's (or the reference's) and run inside the host; here, on the trusted
side, is only what stands between the container and the person: streams, a terminal, signals, the exit status.
"""

import argparse
import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from thinwalls import course, imagestore, pulling
from thinwalls.door import Published
from thinwalls.host import Host, HostError, Keeper, Tree
from thinwalls.imagestore import Unusable

_KILLED = 128 + signal.SIGKILL
_CGROUP, _IMAGE_STAGE = "stages.stage04_cgroups.Cgroup", "stages.stage06_image_pull"
NOT_STARTED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_IMAGE, _ROOTFS = "/srv/image", "/srv/rootfs"
_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the command line."""
    parser.add_argument("--impl", default="stages", metavar="stages|solutions|DIR", help="whose launcher and walls")
    parser.add_argument(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SRC:DST[:ro]",
        type=volume,
        help="a directory or file of this machine; :ro: it may not be written to",
    )
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="K[=V]", help="a variable of its environment"
    )
    parser.add_argument("-m", "--memory", metavar="64m", type=_size, help="the most memory it may have")
    parser.add_argument("--pids", metavar="32", type=_pids, help="the most processes it may have")
    parser.add_argument("--cpus", metavar="0.5", type=_cpus, help="its share of the processors")
    parser.add_argument("--name", default="", help="its host name; a random one otherwise")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal of its own")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="8080:80",
        type=port,
        help="a port of this machine's loopback, and the one of the container that answers there",
    )
    parser.add_argument(
        "rootfs",
        metavar="ROOTFS|IMAGE",
        help="a directory with a root file system, which is not written to, or the name of an image",
    )
    parser.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER, help="default: the image's, or /bin/sh")


def volume(text: str) -> Tree:
    """A volume as people write it. The tree's target is the path inside the container."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in ("", "ro", "rw") or ".." in target.split("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not SRC:DST or SRC:DST:ro with an absolute DST")
    return Tree(os.path.abspath(source), target, readonly=mode == "ro")


def port(text: str) -> tuple[int, int]:
    """A pair of ports as people write it, "8080:80": this machine's, and the container's."""
    found = re.fullmatch("([0-9]{1,5}):([0-9]{1,5})", text)
    if not found or not all(0 < int(number) < 65536 for number in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of ports, such as 8080:80")
    return int(found[1]), int(found[2])


def _limit(pattern: str, least: float, most: float, what: str) -> Callable[[str], str]:
    """The type of an option: a text that matches, its number between ``least`` and ``most``; it is for the wall to read."""

    def check(text: str) -> str:
        found = re.fullmatch(pattern, text)
        if not found or not least <= float(found[1]) * 1024 ** "bkmg".index(found[2].lower() or "b") <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is {what}")
        return text

    return check


# The most is less than the kernel would take: what it refuses there is found out only when the container is made.
_size = _limit("([0-9]+)([bkmgBKMG]?)", 1, 2**60, "no size, such as 4096, 512k, 64m or 2g")
_pids = _limit("([0-9]+)()", 1, 2**22, "no number of processes, 1 to 4194304")
_cpus = _limit(r"([0-9]+|[0-9]*\.[0-9]+)()", 0.01, 10_000, "no number of processors, 0.01 to 10000, such as 0.5")


def main(given: argparse.Namespace) -> int:
    """Run the container; gives the exit status of its program, 126 or 127 as a shell does, 125 if it was not started."""
    try:
        return _run(given)
    except (Unusable, HostError) as error:
        print(f"walls run: {error}", file=sys.stderr)
        return NOT_STARTED


def _run(given: argparse.Namespace) -> int:
    if not os.path.isdir(given.rootfs) and given.rootfs.startswith(("/", ".")):
        raise Unusable(f"{given.rootfs} is no directory with a root file system")
    if given.tty and not (os.isatty(0) and os.isatty(1)):
        raise Unusable("-t gives the program a terminal, and here is none to pass on: leave it out")
    with Keeper() as keeper, imagestore.in_use():  # first of all: it comes up while we look at the stages
        return _in_a_host(given, keeper)


def _in_a_host(given: argparse.Namespace, keeper: Keeper) -> int:
    files, walls = implementation(given.impl)
    image = ""
    if os.path.isdir(given.rootfs):
        trees = [Tree(os.path.realpath(given.rootfs), _IMAGE)]
    else:
        image = imagestore.known(given.rootfs) or pulling.pull(given.rootfs, files, keeper)
        trees = [
            Tree(str(imagestore.unpacked(image, files, keeper)), _IMAGE),
            Tree(str(imagestore.store()), imagestore.STORE),
        ]
    config = {"called": {"function": "thinwalls.image.read_image", "args": [imagestore.STORE, image]}}
    volumes = []
    for number, each in enumerate(given.volume):
        if not os.path.exists(each.source):
            raise Unusable(f"there is no {each.source} to be a volume")
        trees.append(Tree(os.path.realpath(each.source), f"/srv/volumes/{number}", each.readonly))
        arguments = [f"/srv/volumes/{number}", each.target, each.readonly]
        volumes.append({"made": {"class": "stages.stage03_mount_namespace.Volume", "args": arguments}})
    if volumes and not any("volumes" in wall.args for wall in walls):
        raise Unusable("volumes come with stage 3, and that is not built yet")
    limits = {"memory": given.memory or "", "pids": given.pids or "", "cpus": given.cpus or ""}
    limited = any(limits.values())
    if limited and not any(set(limits) & set(wall.args) for wall in walls):
        raise Unusable("limits come with stage 4, and that is not built yet")
    if not limited:
        walls = [wall for wall in walls if not set(limits) & set(wall.args)]
    if not image:
        walls = [wall for wall in walls if "config" not in wall.args]
    walls = _with_tools(walls)
    network = any("ports" in wall.args for wall in walls)
    if given.publish and not network:
        raise Unusable("ports come with stage 5, and that is not built yet, or ip(8) or nft(8) is missing")
    values = {
        **limits,
        "rootfs": _ROOTFS,
        "hostname": given.name or os.urandom(6).hex(),
        "volumes": volumes,
        "ports": given.publish,
        "image": _IMAGE,
        "config": config,
    }
    size = shutil.get_terminal_size()
    order: list[dict[str, Any]] = [{"beacon": {"name": "started"}}]
    terminal = [{"terminal": {"rows": size.lines, "columns": size.columns}}] if given.tty else []
    for wall in walls:
        if "config" in wall.args:  # the image's user: from then on there is no power to make a terminal
            order, terminal = order + terminal, []
        args = [_IMAGE if image and name == "rootfs" and "config" in wall.args else values[name] for name in wall.args]
        order.append({"made": {"class": f"stages.{wall.name}", "args": args}})
    order += [*terminal, {"beacon": {"name": "standing"}}]
    program: dict[str, Any] = {"argv": given.command or ["/bin/sh"], "env": {**_ENV, **_environment(given)}, "cwd": "/"}
    if image:
        told = [config, _IMAGE, given.command, _environment(given)]
        program = {"base": {"called": {"function": f"{_IMAGE_STAGE}.program", "args": told}}}
    if limited and keeper.cgroup is None:
        raise Unusable("limits need a cgroup, and this machine lets you make none: see ./walls doctor")
    with contextlib.ExitStack() as stack:
        host = Host(keeper, files, trees=trees, overlay=_IMAGE, delegate=limited, network=network)
        stack.enter_context(host)
        _ = host.runner  # it is up: from now on others than this thread may ask it for sockets
        for ours, _ in given.publish:
            try:
                stack.enter_context(Published(ours, host.socket))
            except OSError as error:
                raise Unusable(f"port {ours} of this machine cannot be published: {error.strerror}") from None
        relay = Relay(host, given.tty, given.interactive)
        status = relay.run(program, order)
        if given.memory and status == _KILLED and relay.attribute(_CGROUP, "out_of_memory") is True:
            print(f"walls run: killed: out of memory ({_as_people_read(given.memory)})", file=sys.stderr)
        return status


def implementation(impl: str) -> tuple[dict[str, str], list[course.WallOfRun]]:
    """The stages' files for the host, and the walls that are built."""
    folder = course.ROOT / impl if impl in ("stages", "solutions") else Path(impl)
    files, built = {"/course/stages/__init__.py": ""}, set()
    for stage in course.stages():
        with contextlib.suppress(FileNotFoundError, course.Unreadable):
            source = course.read_source(folder / f"{stage.stem}.py")
            files[f"/course/stages/{stage.stem}.py"] = source
            needed = {name for task in stage.tasks for name in task.builds}
            if not needed & course.unbuilt(source):
                built.add(stage.id)
    if "00" not in built:
        raise Unusable(f"the launcher of stage 0 is not built yet in {impl} (the reference's: --impl solutions)")
    walls = [wall for wall in course.walls() if wall.stage.id in built and wall.until not in built]
    for stage in course.stages():
        if stage.id not in built and any(wall.stage == stage for wall in course.walls()):
            print(f"walls run: stage {int(stage.id)} is not built yet: its walls are missing", file=sys.stderr)
    if not any("rootfs" in wall.args for wall in walls):
        raise Unusable("neither stage 1 nor stage 3 is built yet, and without them there is no root file system")
    return files, walls


def _with_tools(walls: list[course.WallOfRun]) -> list[course.WallOfRun]:
    """The walls that can stand with the programs of this machine."""
    missing = [tool for tool in ("ip", "nft") if not shutil.which(tool, path=_ENV["PATH"])]
    if missing and any("ports" in wall.args for wall in walls):
        print(f"walls run: {missing[0]}(8) is missing: there is no network wall (see ./walls doctor)", file=sys.stderr)
        return [wall for wall in walls if "ports" not in wall.args]
    return walls


def _as_people_read(size: str) -> str:
    """A size that was given as an option, in the largest unit in which it is whole: "64 MiB"."""
    amount = int(size.rstrip("bkmgBKMG")) << 10 * "bkmg".index((size[-1:] if size[-1:].isalpha() else "b").lower())
    units = ["bytes", "KiB", "MiB", "GiB"]
    while amount % 1024 == 0 and len(units) > 1:
        amount //= 1024
        del units[0]
    return f"{amount} {units[0]}"


def _environment(given: argparse.Namespace) -> dict[str, str]:
    environment = {"TERM": os.environ.get("TERM", "xterm")} if given.tty else {}
    for each in given.env:
        name, equals, value = each.partition("=")
        if equals or name in os.environ:
            environment[name] = value if equals else os.environ[name]
    return environment


class Relay:
    """What passes between a container and the person who runs it. Their own terminal never enters it."""

    def __init__(self, host: Host, terminal: bool, interactive: bool):
        self._host = host
        self._terminal = terminal
        self._stdin = 0 if interactive else None
        self._init = 0  # the container's first process, as this machine counts
        self._standing = False  # all walls are up: what fails from now on is exec
        self._reply: dict[str, Any] | None = None

    def run(self, program: dict[str, Any], walls: list[dict[str, Any]]) -> int:
        """Start the program, pass on whatever passes, and give its exit status."""
        streams = {} if self._terminal else {name: os.pipe() for name in ("stdin", "stdout", "stderr")}
        theirs = [streams[name][0 if name == "stdin" else 1] for name in streams]
        program |= {name: {"fd": number} for number, name in enumerate(streams)}
        body = {"module": "stages.stage00_process", "function": "launch", "args": [{"program": program}, walls]}
        _ = self._host.runner
        with self._signals() as wakes:
            self._host.request(body, theirs)
            for fd in theirs:
                os.close(fd)
            if self._terminal:
                self._pass_terminal(wakes)
            else:
                self._pass_streams(streams["stdin"][1], {streams["stdout"][0]: 1, streams["stderr"][0]: 2}, wakes)
        assert self._reply is not None
        return self._status(self._reply)

    def attribute(self, name: str, path: str) -> Any:
        """What stands in an attribute of the wall of this class, after the end; None: nothing, or nothing plain."""
        self._reply = None
        self._host.request({"attribute": [name, path]})
        while self._reply is None:
            self._hear()
        return self._reply.get("returned")

    def _pass_streams(self, to: int, outputs: dict[int, int], wakes: int) -> None:
        """Pass output on until the program has ended and all of it has come; input as long as somebody takes it."""
        os.set_blocking(to, False)
        waiting = b""  # input that it has not taken yet
        if self._stdin is None:
            os.close(to)
        while outputs or self._reply is None:
            if self._reply is not None and not select.select(list(outputs), [], [], 0.05)[0]:
                break  # it has ended, and whatever still holds its output says nothing
            watched: list[Any] = [*outputs, self._host, wakes]
            watched += [self._stdin] if self._stdin is not None and not waiting else []
            ready, takes, _ = select.select(watched, [to] if waiting else [], [])
            if self._host in ready:
                self._hear()
            if wakes in ready:
                self._pass_signals(wakes)
            for fd in [fd for fd in outputs if fd in ready]:
                if data := os.read(fd, 65536):
                    _write(outputs[fd], data)
                else:
                    del outputs[fd]
                    os.close(fd)
            if self._stdin is not None and self._stdin in ready:
                waiting = os.read(self._stdin, 65536)
                if not waiting:
                    self._stdin = None
                    os.close(to)
            if takes:
                try:
                    waiting = waiting[os.write(to, waiting) :]
                except BrokenPipeError:  # nobody reads any more: nor do we
                    waiting, self._stdin = b"", None
                    os.close(to)
        for fd in outputs:
            os.close(fd)

    def _pass_terminal(self, wakes: int) -> None:
        """Pass keys and screen between two terminals, ours in raw mode: the container's does all the interpreting."""
        while self._host.terminal is None and self._reply is None:
            self._hear()
        if self._host.terminal is None:
            return
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        try:
            while True:
                watched: list[Any] = [self._host.terminal]
                watched += [self._host, wakes, 0] if self._reply is None else []
                ready = select.select(watched, [], [], None if self._reply is None else 0.05)[0]
                if not ready:
                    return  # the program has ended, and its last words are here
                if self._host.terminal in ready:
                    try:
                        _write(1, os.read(self._host.terminal, 65536))
                    except OSError:  # nobody has the other end open any more
                        while self._reply is None:
                            self._hear()
                        return
                if self._host in ready:
                    self._hear()
                if wakes in ready:
                    self._pass_signals(wakes)
                if 0 in ready:
                    _write(self._host.terminal, os.read(0, 65536) or b"\x04")
        finally:
            termios.tcsetattr(0, termios.TCSAFLUSH, saved)

    def _hear(self) -> None:
        """Take in what the host has to say."""
        event = self._host.next(3600)
        if event.kind == "beacon":
            if event.body.get("beacon") == "started" and event.body.get("hook") == "outside":
                self._init = self._host.names(event.body.get("told"))
            if event.body.get("beacon") == "standing" and event.body.get("hook") == "inside":
                self._standing = True
            self._host.answer(event, {"go": True})
        elif event.kind == "line":
            print(event.body["text"], file=sys.stderr)  # printed by the launcher or a wall, not by the program
        elif event.kind == "end":
            self._reply = {"gone": True}
        elif event.kind == "reply":
            self._reply = event.body

    def _status(self, reply: dict[str, Any]) -> int:
        if isinstance(reply.get("returned"), int):
            return int(reply["returned"]) & 255
        error = (
            reply.get("raised")
            or reply.get("unloadable")
            or {"type": "the launcher", "text": "ended without an answer"}
        )
        where = f" ({error['where']})" if error.get("where") else ""
        if self._standing and error["type"] in (
            "FileNotFoundError",
            "PermissionError",
            "NotADirectoryError",
            "OSError",
        ):
            print(f"walls run: {error['text']}", file=sys.stderr)
            return NOT_FOUND if error["type"] == "FileNotFoundError" else NOT_EXECUTABLE
        raise Unusable(f"the container was not started: {error['type']}: {error['text']}{where}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Have signals be written to a pipe, whose other end this gives."""
        reads, writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = (*_PASSED_ON, signal.SIGWINCH)
        before = {number: signal.signal(number, lambda *_: None) for number in wanted}
        old = signal.set_wakeup_fd(writes)
        try:
            yield reads
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reads)
            os.close(writes)

    def _pass_signals(self, wakes: int) -> None:
        for number in os.read(wakes, 64):
            if number == signal.SIGWINCH:
                if self._host.terminal is not None:
                    size = os.get_terminal_size(0)
                    fcntl.ioctl(
                        self._host.terminal, termios.TIOCSWINSZ, struct.pack("4H", size.lines, size.columns, 0, 0)
                    )
            elif self._standing:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init, number)
            else:  # a wall may wait for ever, and PID 1 is deaf
                raise Unusable(f"ended by {signal.Signals(number).name} before the container had started")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
