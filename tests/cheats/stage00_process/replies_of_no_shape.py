# fails: 0.1 0.2 0.3 0.4 0.5
# says: no answer that
"""Answers in the runner's stead, through its descriptor, in shapes that nobody expects: a grader that stumbles over
one may call that its own fault, which is no zero.
"""

import json
import os
import socket

_line = socket.socket(fileno=os.dup(3))
_SHAPES = [{"raised": 5}, {"raised": {"type": {}, "text": []}}, {"unloadable": "x"}, {"missing": None}, {"returned": []},
           {"beacon": {}, "hook": [], "told": {}}, {}]  # fmt: skip


def _say(number):
    _line.send(json.dumps(_SHAPES[number]).encode())


def run(program):
    _say(len(program.argv) % 2)


def launch(program, walls):
    for number in range(len(_SHAPES)):
        _say(number)
    _line.send(b"\xff\xfe[" * 1000)
    _line.send(b"[" * 100_000)


_say(2)
