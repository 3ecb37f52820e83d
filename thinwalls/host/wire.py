"""Messages between the grader, the keeper and a host: one JSON object a packet, with descriptors beside it.

The socket is SOCK_SEQPACKET, so a packet is a message: nothing to frame, nothing to resynchronise after a
hostile sender. A packet over the limit, or one that is no JSON object, is a ``Garbled``.
"""

import array
import contextlib
import errno
import json
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

LIMIT = 160 * 1024  # bytes a message may have
_FDS = 253  # as many as one message can have (SCM_MAX_FD): what finds no room the kernel closes, and that can take long
_CREDENTIALS = struct.calcsize("3i")
# python's socket module has no name for it: asm-generic/socket.h, the same on x86-64 and arm64
SO_PASSCRED = getattr(socket, "SO_PASSCRED", 16)
SO_PASSRIGHTS = 83  # Linux 6.16
ANCILLARY = socket.CMSG_SPACE(_FDS * 4) + socket.CMSG_SPACE(_CREDENTIALS)
_PATIENCE = 0.2  # seconds to wait for the closing of a descriptor
_TRAFFIC_JAM = 5.0  # seconds to wait until descriptors that are on their way have arrived or are dropped


class Garbled(Exception):
    """What arrived is no message."""


class Message(NamedTuple):
    """What arrived. ``pid``: its sender as the kernel names it in the receiver's PID namespace, 0 if unknown."""

    body: dict[str, Any]
    fds: list[int]
    pid: int


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends for messages. See unix(7)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs


def listen_to_a_guest(sock: socket.socket, descriptors: bool = False) -> None:
    """Have the kernel name the sender of what arrives here; and let no descriptor arrive, where it can refuse them."""
    sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    if not descriptors:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def close_apart(these: Sequence[int | socket.socket]) -> None:
    """Close them, in a thread that is left behind if it takes long.

    What hostile code sent, or left unread in a socket, may be a TCP connection with SO_LINGER: its close waits for
    as many seconds as the sender wrote there, socket(7).
    """

    def close() -> None:
        for each in these:
            with contextlib.suppress(OSError):
                os.close(each) if isinstance(each, int) else each.close()

    if these:
        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        thread.join(_PATIENCE)


def send(sock: socket.socket, body: dict[str, Any], fds: Sequence[int] = (), flags: int = 0) -> None:
    """Send one message. Raises OSError when the other end is gone, or with MSG_DONTWAIT does not read."""
    # backslashreplace: what is no Unicode, half of a surrogate pair, becomes an escape of JSON's.
    data = json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace")
    if len(data) > LIMIT:
        raise Garbled(f"a message of {len(data)} bytes; {LIMIT} are allowed")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    deadline = time.monotonic() + _TRAFFIC_JAM
    while True:
        try:
            sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL | flags)
            return
        except OSError as error:
            # Of one user only so many descriptors may be on their way: another host of theirs may be flooding.
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def receive(sock: socket.socket, how: int = 0) -> Message | None:
    """The next message; None when the other end is closed. Raises Garbled; its descriptors are then closed.

    how: flags such as MSG_DONTWAIT, recvmsg(2).
    """
    data, ancillary, flags, _ = sock.recvmsg(LIMIT, ANCILLARY, socket.MSG_CMSG_CLOEXEC | how)
    fds = descriptors(ancillary)
    if not data:
        close_apart(fds)
        return None
    try:
        body = json.loads(data.decode())
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not isinstance(body, dict):
            raise ValueError("cut off, or no object")
    except (ValueError, RecursionError) as error:
        close_apart(fds)
        raise Garbled(str(error)) from None
    return Message(body, fds, sender(ancillary))


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with it: open in this process now, and this process's to close."""
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array.array("i", payload[: len(payload) - len(payload) % 4])
    return fds


def maker(fd: int) -> int:
    """Who made the socket pair that ``fd`` is an end of: what the kernel noted then (SO_PEERCRED, unix(7)).

    Raises OSError for anything that is no Unix socket of our kind.
    """
    with socket.socket(fileno=os.dup(fd)) as sock:
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            raise OSError(f"descriptor {fd} is no end of such a pair")
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS))[0])


def sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Who sent it, from the credentials the kernel attached (SO_PASSCRED, unix(7)); 0 if it attached none.

    Not proof against uid 0 of a host: that may attach the id of any process it sees. maker() is.
    """
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return int(struct.unpack("3i", payload[:_CREDENTIALS])[0])
    return 0


def unable(error: BaseException) -> dict[str, str]:
    """The message that a host could not be made, with the step that failed: errno alone says too little."""
    steps = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return {"unable": f"{error} (in {' > '.join(steps[-2:])})"}


# What a runner replies, and the types in it. The learner's code may write to the runner's socket as well.
_PLAIN = (type(None), bool, int, float, str)
_SHAPES: dict[str, Any] = {
    "returned": _PLAIN,
    "odd": str,
    "absent": str,
    "stray": str,
    "missing": str,
    "raised": dict,
    "unloadable": dict,
}
_ERROR: dict[str, Any] = {
    "type": str,
    "text": str,
    "args": str,
    "errno": (type(None), int),
    "filename": (type(None), str),
    "where": str,
}


def well_formed(body: dict[str, Any]) -> bool:
    """Whether a reply has the shape that the runner gives to it."""
    if len(body) != 1:
        return False
    ((kind, given),) = body.items()
    if kind not in _SHAPES or not isinstance(given, _SHAPES[kind]):
        return False
    if kind not in ("raised", "unloadable"):
        return True
    return set(given) == set(_ERROR) and all(isinstance(given[name], kinds) for name, kinds in _ERROR.items())
