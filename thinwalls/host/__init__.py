"""The throwaway host: a machine of its own, made in milliseconds, in which a learner's code may do its worst.

Four processes, each with one reason to exist:

- the grader (whoever imports this module) decides; it never runs learner code;
- the keeper makes hosts, ends them and cleans up after a grader that died (``keeper``);
- the outer PID 1 holds the mounts and limits of one host (``outer``);
- the inner level is the learner's machine: its PID 1, and the runner that calls the learner's functions
  (``inner``, ``runner``).

The outer level's network namespace can play the internet (``network``).
"""

import base64
import contextlib
import json
import os
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinwalls import facts
from thinwalls.host import limits, start, wire
from thinwalls.host.network import BEYOND, GATEWAY, HOST

__all__ = ["BEYOND", "GATEWAY", "HOST", "Event", "Gone", "Host", "HostError", "Keeper", "Late", "Tree"]
_HERE = Path(__file__).resolve().parents[2]
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.conf.d")
# Programs that would build the container in the learner's stead.
CONTAINER_TOOLS = tuple(
    f"/usr/{where}/{tool}"
    for tool in "docker dockerd containerd ctr nerdctl podman buildah runc crun youki bwrap firejail lxc-start systemd-nspawn".split()
    for where in ("bin", "sbin", "local/bin")
)
# How many times more time than usual everything is given, on a machine that is slow (an emulated one). At least 1.
SLOWER = max(1.0, float(os.environ.get("THINWALLS_PATIENCE") or 1))
_PATIENCE = 10 * SLOWER  # seconds a host may take to come up
# What stage 6 stands on takes a while to load: the keeper does so when a host is to have that stage.
_DEAR = ("thinwalls.dirfd", "thinwalls.image", "thinwalls.layers", "thinwalls.session", "thinwalls.transport")
_SHOWN = ("thinwalls.registry", "thinwalls.standing")  # which demonstrations have in their own host
_OUTPUT = 64 * 1024  # bytes of a host's output that are kept, the last ones


class HostError(Exception):
    """A throwaway host could not be made, or broke, through no fault of the code in it."""


class Gone(Exception):
    """The process that was asked has ended instead of answering."""


class Late(Exception):
    """No answer came before the deadline. what: that was waited for; maybe: why it does not come."""

    what, maybe = "an end", ""


@dataclass(frozen=True)
class Event:
    """Something that reached the grader from a host. ``pid`` is the sender's, as this machine counts processes."""

    kind: str  # "reply", "beacon", "line" (of output), "progress", or "end"
    body: dict[str, Any]
    pid: int = 0
    line: socket.socket | None = None  # of a beacon: where it waits for an answer


class Keeper:
    """A handle on a keeper process; a context manager. One at a time may use it."""

    no_scope = ""  # why systemd gave a keeper of this process no scope; after that it is not asked again

    def __init__(self) -> None:
        self.life = 0  # how often it has been started
        self._start()

    def _start(self) -> None:
        self.life += 1
        self._sock, theirs = wire.pair()
        scope = [] if Keeper.no_scope else limits.user_scope()
        self.scope = bool(scope)  # whether systemd has been asked for a group
        self._process = start.keeper(theirs, scope)
        theirs.close()
        self._ready: dict[str, Any] | None = None

    @property
    def cgroup(self) -> str | None:
        """The version of the cgroup that bounds the hosts, "v1" or "v2"; None: their memory is not bounded."""
        if self._ready is None:
            try:
                if self.scope and not select.select([self._sock], [], [], _PATIENCE)[0]:
                    self._process.kill()
                self._ready = self._receive()
            except HostError:
                if not self.scope:
                    raise
                Keeper.no_scope = start.said(self._process)
                self._sock.close()
                self._start()
                self._ready = self._receive()
            if self._process.stderr:
                self._process.stderr.close()  # systemd-run had nothing to say
        version: str | None = self._ready["cgroup"]
        return version

    @property
    def ids(self) -> int:
        """How many user ids a host has: 1 where nobody granted this user a range of others."""
        _ = self.cgroup
        assert self._ready is not None
        return int(self._ready["ids"])

    def ask(self, body: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """One request to the keeper, one answer. Raises HostError.

        A keeper that has died (the kernel may have killed it for the memory that its hosts took) is started anew.
        """
        _ = self.cgroup
        if "make" in body and self._process.poll() is not None:
            self._sock.close()
            self._start()
            _ = self.cgroup
        try:
            wire.send(self._sock, body, fds)
        except OSError:
            self._process.wait()
            raise HostError("the keeper of the throwaway hosts has died") from None
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            message = wire.receive(self._sock)
        except OSError:
            message = None
        if message is None:
            self._process.wait()
            raise HostError("the keeper of the throwaway hosts has died")
        if "failed" in message.body:
            raise HostError(f"no throwaway host can be made here: {message.body['failed']}")
        return message.body

    def close(self) -> None:
        """End the keeper, and with it every host it still has."""
        self._sock.close()
        if self._process.stderr:
            self._process.stderr.close()
        self._process.wait()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Tree:
    """A directory or file of this machine that a host has too, by a mount. Both paths are absolute."""

    source: str
    target: str
    readonly: bool = True


@dataclass
class Host:
    """One throwaway host. A context manager: at its end no process, mount or file of it is left.

    Making it goes on by itself while the caller does something else; the first use waits for it.

    files: absolute path inside the host -> text, or bytes; stages go below /course.
    rootfs: a directory of this machine to be copied to /srv/rootfs in the host; None: none.
    masked: programs that must not run in it, absolute paths.
    """

    keeper: Keeper
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    rootfs: str | None = None
    masked: Sequence[str] = CONTAINER_TOOLS
    trees: Sequence[Tree] = ()
    overlay: str = ""  # a tree's target, on top of which /srv/rootfs is a layer that ends with the host
    delegate: bool = False  # hand it a cgroup of its own at /sys/fs/cgroup, where the keeper can
    network: bool = False  # give it a way out, to what listen() and socket() hold out to it (thinwalls.host.network)
    pid: int = 0  # of the outer PID 1
    output: bytes = b""  # the last of what the host printed, for showing
    terminal: int | None = None  # the controlling end of a terminal that was made in a container
    oom_kills: int = 0  # processes that were killed for lack of memory; known after close()

    def __post_init__(self) -> None:
        self._runner = 0
        self._ordering = threading.Lock()  # listen() and socket() may be called by several threads
        self._request, request = wire.pair()
        self._control, control = wire.pair()
        wire.listen_to_a_guest(self._request, descriptors=True)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._request, selectors.EVENT_READ, self._read_request)
        self._streams: list[tuple[socket.socket, socket.socket]] = []  # ours, theirs; the number is the position
        self._partial: dict[int, bytes] = {}
        self._events: list[Event] = []
        self._unanswered: set[socket.socket] = set()  # where beacons wait; ours to close, whether answered or not
        prefixes = dict.fromkeys((sys.base_prefix, sys.prefix))
        binds = [*_SYSTEM, *(prefix for prefix in prefixes if not prefix.startswith("/usr"))]
        texts = {path: each for path, each in self.files.items() if isinstance(each, str)}
        order = {
            "files": texts,
            "bytes": {
                path: base64.b64encode(each).decode() for path, each in self.files.items() if isinstance(each, bytes)
            },
            "rootfs": self.rootfs,
            "masked": list(self.masked),
            "binds": binds,
            "hidden": str(_HERE),
            "trees": [vars(tree) for tree in self.trees],
            "overlay": self.overlay,
            "network": self.network,
        }
        with open(os.memfd_create("order"), "w+") as orders:
            orders.write(json.dumps(order))
            orders.flush()
            orders.seek(0)
            named = [name for name in (*_DEAR, *_SHOWN) if any(name in text for text in texts.values())]
            modules = [*_DEAR, *named] if set(_DEAR) & set(named) else named
            make = {
                "make": True,
                "delegate": self.delegate,
                "trees": [tree.source for tree in self.trees],
                "modules": modules,
            }
            ends = [request.fileno(), control.fileno(), *(self.open_stream()[1] for _ in range(3))]
            try:
                answer = self.keeper.ask(make, [orders.fileno(), *ends])
            finally:
                request.close()
                control.close()
        self.pid, self._life = answer["pid"], self.keeper.life
        self.cgroups: dict[str, str] = answer["cgroups"]  # handed over to it: controller (v2: "") -> directory, as here

    @property
    def runner(self) -> int:
        """The process that calls the learner's functions. Waits until the host is up; raises HostError."""
        if self._runner:
            return self._runner
        try:
            first = self.next(_PATIENCE)
        except Late:
            first = Event("reply", {"unable": f"it was not up after {_PATIENCE:.0f} seconds"})
        if "ready" not in first.body:
            self.close()
            raise HostError(f"no throwaway host can be made here: {first.body.get('unable', 'it ended at once')}")
        self._runner = first.pid
        return self._runner

    def request(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send the runner a request, or an answer to a beacon. Raises HostError if the host could not be made."""
        _ = self.runner
        with contextlib.suppress(OSError):  # it has ended, as the next event will say, or does not read: its loss
            wire.send(self._request, body, fds, socket.MSG_DONTWAIT)

    def answer(self, event: Event, body: dict[str, Any]) -> None:
        """Answer a beacon, on the socket that it sent for that."""
        if event.line:
            with contextlib.suppress(OSError):
                wire.send(event.line, body, (), socket.MSG_DONTWAIT)
            wire.close_apart([event.line])
            self._unanswered.discard(event.line)

    def next(self, seconds: float) -> Event:
        """The next thing that comes out of the host. Raises Late after so many seconds without any."""
        deadline = time.monotonic() + seconds
        while not self._events:
            left = deadline - time.monotonic()
            ready = self._selector.select(max(left, 0))
            if left <= 0:  # also while output without end, and without a line's end, comes in
                raise Late
            for key, _ in ready:
                key.data(key.fileobj)
        return self._events.pop(0)

    def open_stream(self) -> tuple[int, int]:
        """A new two-way stream: its number, for type() and in events, and the descriptor to give to a program.

        0, 1 and 2 are the runner's own standard streams.
        """
        ours, theirs = socket.socketpair()
        wire.listen_to_a_guest(ours)
        self._streams.append((ours, theirs))
        number = len(self._streams) - 1
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._read_stream(number))
        return number, theirs.fileno()

    def stream(self, number: int) -> tuple[int, int]:
        """A stream that is open already, as open_stream() gives it."""
        return number, self._streams[number][1].fileno()

    def fileno(self) -> int:
        """A descriptor that can be read when ``next`` has something to give."""
        return self._selector.fileno()

    def names(self, pid: object) -> int:
        """Which process of this machine a process id of the runner's PID namespace stands for; 0 for none."""
        for candidate in (self.runner, *facts.descendants(facts.Process(self.runner).parent())):
            with contextlib.suppress(facts.Ended):
                numbers = facts.Process(candidate).status()["NSpid"].split()
                if len(numbers) > 2 and numbers[2] == str(pid):  # this machine's, the outer level's, the runner's
                    return candidate
        return 0

    def type(self, text: str, stream: int = 0) -> None:
        """Write to a stream of the host; what it does not take at once is lost."""
        with contextlib.suppress(OSError):
            self._streams[stream][0].send(text.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def plant(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file in the host, from the trusted side, below no link. Raises OSError with the reason."""
        data = data.encode() if isinstance(data, str) else data
        self._order({"path": path, "data": base64.b64encode(data).decode(), "mode": mode})

    def listen(self, address: str = BEYOND, port: int = 0) -> socket.socket:
        """A listening TCP socket beyond the host, at GATEWAY or BEYOND: whoever in it connects there comes to us."""
        return socket.socket(fileno=self._order({"listen": [address, port]})[0])

    def socket(self) -> socket.socket:
        """A TCP socket that is to be connected from beyond the host, to HOST for instance."""
        return socket.socket(fileno=self._order({"listen": None})[0])

    def _order(self, body: dict[str, Any]) -> list[int]:
        """Ask the outer PID 1 for something; gives the descriptors that came with it. Raises OSError with the reason."""
        _ = self.runner
        answer = None
        with self._ordering, contextlib.suppress(OSError):
            wire.send(self._control, body)
            answer = wire.receive(self._control)
        if answer is None:
            raise HostError("the throwaway host has ended")
        if "failed" in answer.body:
            raise OSError(answer.body["failed"])
        return answer.fds

    def close(self) -> None:
        """End the host; when this returns none of its processes is left."""
        if self.pid:
            pid, self.pid = self.pid, 0
            try:
                if self.keeper.life == self._life:
                    self.oom_kills = self.keeper.ask({"end": pid})["oom_kills"]
            except HostError:
                self.oom_kills = 1  # whoever else could have killed the keeper: its hosts have died with it
            if self.terminal is not None:
                os.close(self.terminal)
            self._selector.close()
            ends = [end for pair in self._streams for end in pair]
            wire.close_apart([self._request, self._control, *ends, *self._unanswered])

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_request(self, sock: Any) -> None:
        try:
            message = wire.receive(sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except wire.Garbled as error:
            self._events.append(Event("reply", {"garbled": str(error)}))
            return
        except OSError:  # it ended before it had read all we sent
            message = None
        if message is None:
            self._selector.unregister(sock)
            self._events.append(Event("end", {}))
            return
        kind, pid, line = "reply", message.pid, None
        if "beacon" in message.body:
            kind, pid = "beacon", 0
            with contextlib.suppress(OSError, IndexError):
                pid = wire.maker(message.fds[0])
                line = socket.socket(fileno=message.fds.pop(0))
                self._unanswered.add(line)
        elif "progress" in message.body:
            kind = "progress"
        elif "terminal" in message.body and self.terminal is None and message.fds and os.isatty(message.fds[0]):
            kind, self.terminal = "terminal", message.fds.pop(0)
        if message.fds:  # nobody in a host has another descriptor to give us: who sends one is not listened to again
            self._selector.unregister(sock)
            wire.close_apart(message.fds)
            kind, message = "end", wire.Message({}, [], 0)
        self._events.append(Event(kind, message.body, pid, line))

    def _read_stream(self, number: int) -> None:
        sock = self._streams[number][0]
        try:
            data, ancillary, _, _ = sock.recvmsg(65536, wire.ANCILLARY, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:  # there was only "out of band" data, which is now gone
            return
        fds = wire.descriptors(ancillary)
        if not data or fds:
            self._selector.unregister(sock)
            wire.close_apart(fds)
            return
        self.output = (self.output + data)[-_OUTPUT:]
        pid = wire.sender(ancillary)
        *lines, rest = (self._partial.pop(number, b"") + data).split(b"\n")
        self._partial[number] = rest[-_OUTPUT:]
        # Endless output must not become endless memory: of a flood only its last lines are looked at.
        for line in lines[-100:]:
            text = line.decode(errors="backslashreplace")
            self._events.append(Event("line", {"text": text, "stream": number}, pid))
        del self._events[:-1000]
