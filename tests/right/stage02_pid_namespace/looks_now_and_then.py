"""An init that sleeps for a moment, looks which signals wait and who has ended, and sleeps again. No class has a method of
its own; the walls are made by functions.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

from thinwalls import linux
from thinwalls.wall import Wall

PASSED_ON = [number for number in signal.valid_signals() if number not in (9, 19, 17, 11, 7, 8, 4)]
libc = ctypes.CDLL(None, use_errno=True)


def wall(name, flags, inside):
    return type(name, (Wall,), {"flags": flags, "inside": inside})


def name_it(self):
    linux.sethostname(self.hostname)


def stay_behind(self):
    wanted = set(PASSED_ON)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    program = os.fork()
    if program == 0:
        return
    os.closerange(0, 65536)
    while (status := harvest(program)) is None:
        for number in signal.sigpending() & wanted:
            signal.sigwait({number})
            os.kill(program, number)
        time.sleep(0.005)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def harvest(program):
    """Wait for all that have ended; the program's wait status, if it is among them."""
    found = None
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG) if found is None else (0, 0)
        if pid == 0:
            return found
        if pid == program:
            found = status


def tie(self):
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)


Uts = wall("Uts", linux.CLONE_NEWUTS | linux.CLONE_NEWIPC, name_it)
Uts.__init__ = lambda self, hostname: setattr(self, "hostname", hostname)
Pids = wall("Pids", linux.CLONE_NEWPID, tie)
Init = wall("Init", 0, stay_behind)


def die_with_launcher():
    tie(None)


def pid_inside(pid):
    directory = Path("/proc") / str(pid)
    if not directory.exists():
        raise ProcessLookupError(3, "No such process", str(pid))
    words = (directory / "status").read_text().partition("NSpid:")[2].partition("\n")[0].split()
    return int(words[-1])


def kill_outside(word):
    place = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    linux.mount("x", place, "proc", 0)
    for number in sorted(int(name) for name in os.listdir(place) if name.isdecimal()):
        with open(f"{place}/{number}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if os.fsencode(word) in words and number not in (os.getpid(), os.getppid()):
            pidfd = os.open(f"{place}/{number}", os.O_RDONLY | os.O_DIRECTORY)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
    raise ProcessLookupError(3, os.strerror(3))
