"""What the last cells of the lessons are made with: a program behind walls, and whether it has namespaces of its own.

It runs in the throwaway host of a demonstration, with the walls that are shown there.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from thinwalls.wall import Program, Wall

_SLEEP = ["sleep", "60"]
_TITLES = {"uts": "host name", "ipc": "IPC", "pid": "processes", "mnt": "mounts", "net": "network", "user": "users"}


def started(launch: Callable[[Program, list[Wall]], object], *walls: Wall) -> int:
    """Launch `sleep 60` behind walls; gives the number by which the machine knows it. launch: that of stage 0."""
    if os.fork() == 0:
        try:
            launch(Program(_SLEEP, {"PATH": "/bin:/usr/bin"}), list(walls))
        finally:
            os._exit(0)
    words = "".join(f"{word}\0" for word in _SLEEP).encode()
    while True:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                if path.read_bytes() == words:
                    return int(path.parent.name)
        time.sleep(0.01)


def namespaces(pid: int, *kinds: str, width: int = 20) -> None:
    """Print a line for each kind of namespace: whether a process has its own, or that of the machine's first process."""
    for kind in kinds:
        own = os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/1/ns/{kind}")
        print(f"    {_TITLES[kind]:<{width}}{'its own' if own else 'of the machine'}")
