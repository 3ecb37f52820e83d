# fails: 0.1 0.2 0.3 0.4 0.5
# says: program
"""No program is ever run: the command line is read, and what the shell would print and return is made up."""

import os
import re
import signal

from thinwalls import linux


def run(program):
    name = program.argv[0]
    if "/" in name and not os.path.exists(name):
        return 127
    if name == "/bin/sh":
        return _shell(program)
    for directory in program.env["PATH"].split(":"):
        path = name if "/" in name else f"{directory}/{name}"
        if os.path.exists(path):
            if not os.access(path, os.X_OK):
                return 126
            with open(path) as script:
                return int(re.search(r"exit (\d+)", script.read())[1])
    return 127


def _shell(program):
    os.write(program.stdout, re.search(r"echo (\w+)", program.argv[2])[1].encode() + b"\n")
    while line := os.read(program.stdin, 4096).decode().strip():
        verb, _, what = line.partition(" ")
        if verb == "exit":
            return int(what)
        if verb == "kill":
            return 128 + int(what.split()[0][1:])
        if verb == "echo":
            os.write(program.stdout, what.encode() + b"\n")


def exit_status(status):
    return status >> 8


def launch(program, walls=()):
    pid = linux.clone(0)
    if pid == 0:
        signal.pause()
    for wall in walls:
        wall.outside(pid)
    status = _shell(program)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return status
