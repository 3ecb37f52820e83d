"""The program is cloned by hand and gets its old mask back at once; one object handles every signal, and each is let in
as soon as its handler stands.
"""

import errno
import os
import re
import signal

from thinwalls import linux
from thinwalls.wall import Wall

from . import stage00_process

FORWARDED = signal.valid_signals().difference(
    (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
)


class Uts(Wall):
    flags = linux.CLONE_NEWIPC | linux.CLONE_NEWUTS

    def __init__(self, hostname):
        self.hostname = hostname

    def inside(self):
        if os.uname().nodename != self.hostname:
            linux.sethostname(self.hostname)


class Pids(Wall):
    flags = linux.CLONE_NEWPID

    def inside(self):
        if os.getpid() == 1:
            die_with_launcher()


class Init(Wall):
    def inside(self):
        old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = linux.clone()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
            return
        for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else range(1024):
            try:
                os.close(int(name))
            except OSError:
                pass
        forward_signals(pid)
        os._exit(stage00_process.exit_status(reap(pid)))


class Relay:
    """What a signal's handler is: an object that knows whom to tell."""

    def __init__(self, pid):
        self.pid = pid

    def __call__(self, number, frame):
        try:
            os.kill(self.pid, number)
        except OSError as error:
            assert error.errno == errno.ESRCH


def forward_signals(pid):
    relay = Relay(pid)
    for number in sorted(FORWARDED, reverse=True):
        signal.signal(number, relay)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def reap(pid):
    while (ended := os.wait())[0] != pid:
        continue
    return ended[1]


def pid_inside(pid):
    if not os.path.isdir(f"/proc/{pid}"):
        raise ProcessLookupError(3, "there is none", pid)
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"^NSpid:.*?(\d+)$", status.read(), re.MULTILINE)[1])


def die_with_launcher():
    linux.prctl(option=linux.PR_SET_PDEATHSIG, arg=int(signal.SIGKILL))


def kill_outside(word):
    if not os.path.exists("/proc/self"):
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID)
    for number in sorted(filter(str.isdigit, os.listdir("/proc")), key=int, reverse=True):
        try:
            line = open(f"/proc/{number}/cmdline", "rb").read()
        except FileNotFoundError:
            continue
        if word in map(os.fsdecode, line.split(b"\0")):
            signal.pidfd_send_signal(os.pidfd_open(int(number)), signal.SIGKILL)
            return
    raise ProcessLookupError
