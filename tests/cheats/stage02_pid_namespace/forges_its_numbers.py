# fails: 2.1 2.2 2.3 2.4 2.5 2.6
# says: one level deeper
"""No namespace at all: the words are printed that a program in one would print, and the program is a relay of ours."""

import ctypes
import os
import sys

from thinwalls import linux
from thinwalls.wall import Wall


class Uts(Wall):
    def __init__(self, hostname):
        self.hostname = hostname

    def inside(self):
        with open("/tmp/hostname", "w") as file:
            file.write(self.hostname + "\n")
        linux.mount("/tmp/hostname", "/proc/sys/kernel/hostname", None, linux.MS_BIND)

    def close(self):
        linux.umount("/proc/sys/kernel/hostname", linux.MNT_DETACH)


class Pids(Wall):
    def inside(self):
        os.getpid = lambda: 1
        os.getppid = lambda: 0
        ctypes.CDLL(None).prctl(15, b"NSpid: 1 1", 0, 0, 0)
        sys.argv[:] = ["init"]


class Init(Wall):
    def inside(self):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        pid = os.fork()
        if pid == 0:
            return
        os.closerange(0, 1000)
        while os.wait()[0] != pid:
            pass
        os._exit(0)


def pid_inside(pid):
    if pid > 1 << 20:
        raise ProcessLookupError
    return 1


def kill_outside(word):
    raise ProcessLookupError(word)
