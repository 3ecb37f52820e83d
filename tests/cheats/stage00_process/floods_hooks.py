# fails: 0.1 0.2 0.3 0.4 0.5
# says: no answer within
"""Says for ever that hooks are called, and never reads what it is answered: whoever writes answers gets stuck."""

import os
import socket

_line = socket.socket(fileno=os.dup(3))


def run(program, walls=()):
    while True:
        _line.send(b'{"beacon": "a", "hook": "outside", "told": 0}')


launch = run
