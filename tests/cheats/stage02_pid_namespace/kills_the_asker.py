# fails: 2.1 2.2 2.3 2.4 2.5 2.6
# says: your code ended
"""Ends the process that asks, and every other, as if a container's end had been seen to."""

import os
import signal

from thinwalls.wall import Wall


class Uts(Wall):
    def __init__(self, hostname):
        os.kill(-1, signal.SIGKILL)
        os._exit(0)


class Pids(Wall):
    def outside(self, pid):
        os.kill(-1, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class Init(Wall):
    pass


def pid_inside(pid):
    return 1


def kill_outside(word):
    os.kill(-1, signal.SIGKILL)
