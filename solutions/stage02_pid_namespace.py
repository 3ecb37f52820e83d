"""Stage 2: namespaces begin, and the PID namespace above all.

chroot hid files. It did not hide the processes: whoever is uid 0 behind it can kill any of them by number, and
numbers can be guessed. A PID namespace is a table of process numbers of its own: what is not in it has no number,
and what has no number cannot be named in any system call.

The first process of such a namespace is its PID 1, and the kernel treats a PID 1 differently: it is given the
orphans, it is deaf to most signals, and its end is the end of all. So a container needs an init.
"""

import errno
import os
import signal
from pathlib import Path

from thinwalls import linux
from thinwalls.wall import Wall

from .stage00_process import exit_status

# What init passes on: all but what nobody can catch, what init lives by, and what the processor itself raises.
FORWARDED = signal.valid_signals() - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
}


class Uts(Wall):
    """The smallest wall: a host name, and System V IPC and message queues, of its own."""

    flags = linux.CLONE_NEWUTS | linux.CLONE_NEWIPC  # task 2.1

    def __init__(self, hostname: str):
        self.hostname = hostname

    def inside(self) -> None:
        """Task 2.1: give the container its host name; the machine's stays what it is.

        The class's ``flags`` must ask for the namespaces: a UTS namespace (UNIX Time-sharing System: uname(2)
        shows it) and an IPC namespace.

        Read: uts_namespaces(7), ipc_namespaces(7), linux.sethostname, and CLONE_NEW* in thinwalls/linux.py.
        """
        linux.sethostname(self.hostname)


class Pids(Wall):
    """A table of process numbers of its own. The child of launch() is PID 1 in it."""

    flags = linux.CLONE_NEWPID  # task 2.2

    def inside(self) -> None:
        """Tie the container to its launcher: the call of task 2.5 goes here."""
        die_with_launcher()  # task 2.5


class Init(Wall):
    """PID 1: stays behind as init, while its child goes on to become the program. The last wall of all."""

    def inside(self) -> None:
        """Task 2.3: fork; the parent, PID 1, becomes init and never returns; the child returns, and goes on to exec.

        Init waits by reap() until the program has ended, and then ends by os._exit with the program's exit status
        as exit_status() of stage 0 counts it. It keeps no descriptor open: somebody may wait for the end of a file
        that only the container still holds.

        Read: pid_namespaces(7), "The namespace's init process"; os.fork; linux.close_range.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})  # task 2.4
        pid = os.fork()
        if pid == 0:
            return  # furnish() unblocks all signals in the program
        linux.close_range(0)
        os._exit(exit_status(reap(pid)))


def pid_inside(pid: int) -> int:
    """Task 2.2: the process id that the process ``pid`` (as we count) has in the PID namespace it is in itself.

    That is the last number of the line "NSpid:" in /proc/PID/status. Raises ProcessLookupError if there is no
    such process. (The flags of Pids, above, are part of this task.)

    Read: proc_pid_status(5) (in older manuals: proc(5)), pid_namespaces(7), "Nesting PID namespaces".
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "No such process", str(pid)) from None
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def reap(pid: int) -> int:
    """Task 2.3: wait for any child of the calling process, again and again, until ``pid`` is the one that ended.

    Returns the wait status of pid. The others are orphans that the kernel gave to this PID 1: who does not wait
    for them keeps them as zombies for ever.

    Read: waitpid(2), pid -1.
    """
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)  # task 2.3 alone: 0 in place of WNOHANG
        if ended == pid:
            return status
        if ended == 0:
            forward_signals(pid)  # task 2.4


def forward_signals(pid: int) -> None:
    """Task 2.4: send every signal in FORWARDED that reaches the calling process, PID 1, on to the process pid.

    The kernel drops a signal sent to a PID 1 that has no handler for it. So somebody who sends SIGTERM to the
    container would wait in vain. A blocked signal is not dropped: it waits until it is asked for. So Init.inside()
    blocks all of FORWARDED before the fork, for good, and SIGCHLD with them. (In the program furnish() unblocks them.)

    This function asks for one after the other, and sends it on. At SIGCHLD it returns: a child has ended. reap() calls
    it whenever waitpid, told not to wait itself (WNOHANG), says that no child has ended yet.

    Read: pid_namespaces(7) on signals, pthread_sigmask(3), sigwait(3), WNOHANG in waitpid(2).
    """
    while (number := signal.sigwait({*FORWARDED, signal.SIGCHLD})) != signal.SIGCHLD:
        os.kill(pid, number)


def die_with_launcher() -> None:
    """Task 2.5: have the kernel kill the calling process, PID 1, when the process that launched it dies.

    When PID 1 dies, the kernel kills everything else in its namespace with it. So nothing of a container survives
    the end of its program, nor its launcher, however that ended. Pids calls it in its inside().

    Read: PR_SET_PDEATHSIG in prctl(2), linux.prctl; pid_namespaces(7) on the end of init.
    """
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_outside(word: str) -> None:
    """Task 2.6: the attack. Called inside a jail of stage 1, as uid 0: kill a process of the machine.

    The victim is a process outside that has ``word`` among its arguments. It is known by nothing else, and the
    jail's /proc is an empty directory; but uid 0 may mount what it likes. Nobody else is harmed. Returns when the signal
    was sent; raises ProcessLookupError when there is no such process to be seen.

    Read: proc(5), linux.mount, kill(2).
    """
    linux.mount("proc", "/proc", "proc")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended since
            if word.encode() in arguments:
                os.kill(int(entry.name), signal.SIGKILL)
                return
    raise ProcessLookupError(errno.ESRCH, "No process with that argument", word)
