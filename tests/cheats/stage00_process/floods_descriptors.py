# fails: 0.1 0.2 0.3 0.4 0.5
# says: ended
"""Sends descriptors over its standard output and the request socket, until whoever reads there can open no more."""

import array
import os
import socket

_full = os.open("/dev/full", os.O_WRONLY)
_rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [_full] * 50))]
_few = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [_full] * 12))]
_stream, _line = socket.socket(fileno=os.dup(1)), socket.socket(fileno=os.dup(3))
for _ in range(200):
    try:
        _stream.sendmsg([b"x\n"], _rights)
    except PermissionError:
        pass  # the kernel may refuse them for the grader, since Linux 6.16
    _line.sendmsg([b'{"odd": "x"}'], _few)
    _line.sendmsg([b"no message"], _few)


def run(program):
    return 127


def launch(program, walls=()):
    _line.sendmsg([b""], _few)
    return 127
