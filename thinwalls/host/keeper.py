"""The keeper: the process that makes throwaway hosts, ends them, and cleans up when the grader dies.

It is a fresh interpreter (nothing of the grader's memory, neither tests nor seed, is in the processes it forks),
in a session of its own (a Ctrl-C or a killed process group does not reach it), and it reads one socket. When
that socket closes, however the grader died, it ends every host, removes its cgroup and exits. Should the keeper
itself be killed, the kernel ends the hosts (PR_SET_PDEATHSIG), and the next keeper sweeps the empty cgroup.
"""

import contextlib
import gc
import importlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from thinwalls import linux
from thinwalls.host import limits, outer, wire

# Loaded once here, so that a stage's imports cost nothing in a host, and work in one that has entered a foreign root.
_PRELOADED = (
    "contextlib ctypes dataclasses errno fcntl functools operator os pathlib pickle resource select signal socket stat "
    "struct subprocess time types typing warnings thinwalls.addresses thinwalls.cgroupfs thinwalls.iproute"
).split()
_RANGE = 65536  # ids a host gets where the keeper is root
_FIRST_ID = 0x5A000000
_SLOTS = 256


class _Held(NamedTuple):
    """What the keeper holds of a host."""

    lifeline: int  # closed, it tells the outer PID 1 to end
    claim: socket.socket | None  # on its range of ids
    cgroup: str  # the name of the group that was handed to it; "" for none


class Keeper:
    """The state of the one keeper process."""

    def __init__(self, grader: socket.socket):
        self._grader = grader
        self._hosts: dict[int, _Held] = {}  # by the process id of the outer PID 1
        self._made = 0
        limits.sweep()
        self._group = limits.make()
        self._oom_kills = 0

    def serve(self) -> None:
        """Answer the grader until it is gone."""
        try:
            wire.send(
                self._grader,
                {"ready": True, "cgroup": self._group.version if self._group else None, "ids": _how_many()},
            )
            while message := wire.receive(self._grader):
                try:
                    wire.send(self._grader, self._answer(message))
                except OSError as error:
                    wire.send(self._grader, {"failed": str(error)})
                finally:
                    for fd in message.fds:
                        os.close(fd)
        except (OSError, wire.Garbled):
            pass  # the grader died in the middle of a message: the same as its end
        finally:
            for pid in list(self._hosts):
                self._end(pid)
            if self._group:
                self._group.remove()

    def _answer(self, message: wire.Message) -> dict[str, Any]:
        if "make" in message.body:
            for name in message.body["modules"]:
                importlib.import_module(name)
            return self._make(message.body["delegate"], message.body["trees"], message.fds)
        return {"oom_kills": self._end(message.body["end"])}

    def _make(self, delegate: bool, trees: list[str], fds: list[int]) -> dict[str, Any]:
        """Start a host; gives the process id of its outer PID 1, and the cgroups that were handed to it.

        Its own ids are mapped before it goes on.

        The order itself is read only in the child: what this process had ever read, every later host would find
        copies of in its memory, the reference's files and other people's among them.
        """
        ids = _how_many()
        claim, first = _claim_range() if os.geteuid() == 0 and _all_ids() else (None, 0)
        self._made += 1
        order: dict[str, Any] = {"bounded": self._group is not None, "ids": ids, "cgroups": {}}
        if delegate and self._group:
            # Where nobody is root, uid 0 of the host is this very user.
            order["cgroups"] = self._group.delegate(f"host-{self._made}", first if claim else os.geteuid())
        maps_ready, mapped = wire.pair()  # says that the ids are mapped, and brings the trees
        lifeline, held = os.pipe()
        try:
            pid = linux.clone(outer.NAMESPACES)
        except OSError:
            for fd in (lifeline, held):
                os.close(fd)
            raise
        if pid == 0:
            self._become_host(order, fds, maps_ready, mapped, lifeline, held)
        maps_ready.close()
        os.close(lifeline)
        self._hosts[pid] = _Held(held, claim, f"host-{self._made}" if order["cgroups"] else "")
        try:
            with contextlib.suppress(
                OSError
            ):  # who has CAP_SYS_RESOURCE raises the floor with it: then no guest can lower it
                Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
            if self._group and order["cgroups"]:
                self._group.settle(f"host-{self._made}", pid)
            _map_ids(pid, first, ids)
            mounts = [_mapped_tree(tree, pid) for tree in trees] if claim else []
            wire.send(mapped, {}, mounts)
            for mount in mounts:
                os.close(mount)
        except OSError:
            self._end(pid)
            raise
        finally:
            mapped.close()
        return {"pid": pid, "cgroups": order["cgroups"]}

    def _become_host(
        self,
        order: dict[str, Any],
        fds: list[int],
        maps_ready: socket.socket,
        mapped: socket.socket,
        lifeline: int,
        held: int,
    ) -> None:
        """The child's side of _make: nothing of the keeper's own is taken along, and nothing returns."""
        try:
            self._grader.close()
            for other in self._hosts.values():
                os.close(other.lifeline)
                if other.claim:
                    other.claim.close()
            mapped.close()
            os.close(held)
            request, control = socket.socket(fileno=fds[1]), socket.socket(fileno=fds[2])
            try:
                with open(fds[0], encoding="utf-8") as orders:
                    order.update(json.load(orders))
                outer.run(order, request, control, fds[3:], maps_ready, lifeline)
            except BaseException as error:
                wire.send(request, wire.unable(error))
        finally:
            os._exit(125)

    def _end(self, pid: int) -> int:
        """Kill a host; when this returns no process of it is left. Gives how many were killed for memory since the last."""
        held = self._hosts.pop(pid)
        os.kill(pid, signal.SIGKILL)  # its PID namespace dies with it: pid_namespaces(7)
        os.waitpid(pid, 0)
        os.close(held.lifeline)
        if held.claim:
            held.claim.close()
        kills = self._group.take_back(held.cgroup) if held.cgroup and self._group else 0
        before, self._oom_kills = self._oom_kills, self._group.killed_for_memory() if self._group else 0
        return kills + self._oom_kills - before


def _claim_range() -> tuple[socket.socket, int]:
    """A range of ids that no account, no subordinate range and no other host uses; held as long as the socket is.

    The claim is a name in the abstract socket namespace (unix(7)): taken atomically, and gone with its holder.
    """
    taken = _ids_in_use()
    for slot in range(_SLOTS):
        first = _FIRST_ID + slot * _RANGE
        if any(start < first + _RANGE and first < start + count for start, count in taken):
            continue
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0thinwalls-ids-{slot}")
            return claim, first
        except OSError:
            claim.close()
    raise OSError(f"no free range of {_RANGE} user ids")


def _how_many() -> int:
    """How many user ids a host gets: a range of them, or one alone."""
    return _RANGE if (os.geteuid() == 0 and _all_ids()) or _subordinate() else 1


def _all_ids() -> bool:
    """Whether our user namespace has the high ids at all: a uid 0 of a container may have few, or one."""
    lines = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(start) <= _FIRST_ID and int(start) + int(n) >= _FIRST_ID + _SLOTS * _RANGE for start, _, n in lines)


def _ids_in_use() -> list[tuple[int, int]]:
    taken = []
    for path, start, count in (("/etc/passwd", 2, None), ("/etc/subuid", 1, 2), ("/etc/subgid", 1, 2)):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                fields = line.split(":")
                with contextlib.suppress(ValueError, IndexError):
                    taken.append((int(fields[start]), int(fields[count]) if count else 1))
    return taken


def _subordinate() -> tuple[int, int] | None:
    """The first ids of the ranges /etc/subuid and /etc/subgid grant this user, if both do and newuidmap(1) is there."""
    if not os.path.exists("/usr/bin/newuidmap") or not os.path.exists("/usr/bin/newgidmap"):
        return None
    found = []
    for path in ("/etc/subuid", "/etc/subgid"):
        with contextlib.suppress(OSError, KeyError):
            names = (pwd.getpwuid(os.getuid()).pw_name, str(os.getuid()))
            for line in Path(path).read_text().splitlines():
                owner, _, rest = line.partition(":")
                first, _, count = rest.partition(":")
                if owner in names and count.isdigit() and int(count) >= _RANGE - 1:
                    found.append(int(first))
                    break
    return (found[0], found[1]) if len(found) == 2 else None


def _mapped_tree(path: str, pid: int) -> int:
    """A detached mount of a tree of this machine's, in which the ids are those of the host's user namespace.

    File systems that cannot do that (some network ones) are handed over as they are: then they belong to nobody there.
    """
    tree = linux.open_tree(path)
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        linux.map_ids(tree, userns)
    os.close(userns)
    return tree


def _map_ids(pid: int, first: int, ids: int) -> None:
    """Say which of the machine's ids the host's are: user_namespaces(7), newuidmap(1). Never the machine's 0."""
    proc = Path(f"/proc/{pid}")
    if first:
        proc.joinpath("uid_map").write_text(f"0 {first} {ids}")
        proc.joinpath("gid_map").write_text(f"0 {first} {ids}")
    elif ids > 1:
        subuid, subgid = _subordinate() or (0, 0)
        for tool, own, start in (("newuidmap", os.getuid(), subuid), ("newgidmap", os.getgid(), subgid)):
            command = [f"/usr/bin/{tool}", str(pid), "0", str(own), "1", "1", str(start), str(ids - 1)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{tool}: {done.stderr.strip()}")
    else:
        proc.joinpath("setgroups").write_text("deny")
        proc.joinpath("uid_map").write_text(f"0 {os.getuid()} 1")
        proc.joinpath("gid_map").write_text(f"0 {os.getgid()} 1")


def main() -> None:
    """Run the keeper on the socket whose descriptor is the last argument."""
    for name in _PRELOADED:
        importlib.import_module(name)
    with contextlib.suppress(OSError):  # the copy of the interpreter, if this is one
        os.closerange(3, int(sys.argv[-1]))
        os.closerange(int(sys.argv[-1]) + 1, 256)
    gc.disable()  # a collection writes to every object's page, and so copies it in every process forked from here
    gc.freeze()
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # its end is the grader's end, nothing else
    Keeper(socket.socket(fileno=int(sys.argv[-1]))).serve()
