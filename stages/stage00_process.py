"""Stage 0: a process.

A container is a process that was started with care. This stage is the care: how a program is started, what it is
given, how the walls of the later stages are put around it before its first instruction, and how the one who
started it learns what became of it.

Every later stage adds walls. The launcher you write here runs them all.
"""

import contextlib
import errno
import fcntl
import functools
import io
import operator
import os
import pickle
import signal
from collections.abc import Sequence
from typing import NoReturn

from thinwalls import linux
from thinwalls.wall import Program, Wall


def run(program: Program) -> int:
    """Task 0.1: run a program as a child of this process, and return its exit status.

    The child is made with linux.clone(); it must become the program, by become() below; the parent waits for it
    and returns its exit status, by exit_status() below, a number from 0 to 255.

    Read: linux.clone in thinwalls/linux.py, execve(2), waitpid(2).
    Not with: subprocess, os.spawn*, os.posix_spawn*, os.system, os.popen, multiprocessing.
    """
    raise NotImplementedError("task 0.1 is not built yet")


def become(program: Program) -> NoReturn:
    """Task 0.1: turn the calling process into the program. Never returns.

    A name without a slash is looked for in the directories of PATH in program.env, in their order; PATH is a
    list separated by colons. A name with a slash is used as it is. The new program gets program.argv and the
    environment program.env, and nothing else of the caller's environment.

    Raises FileNotFoundError (with the name as its filename) when there is no such program, PermissionError when
    there is one that may not be executed (of several in PATH: when none of them may), and otherwise the OSError of
    execve(2).
    """
    raise NotImplementedError("task 0.1 is not built yet")


def exit_status(status: int) -> int:
    """Task 0.1: the exit status in a status that waitpid(2) gave: what the program gave to exit(2).

    Task 0.2 adds: of a program that was killed by signal N, 128 + N, as a shell counts it.

    Read: wait(2), from WIFEXITED on; os.WIFEXITED, os.WTERMSIG and the others.
    """
    raise NotImplementedError("task 0.1 is not built yet")


def refusal(error: OSError) -> int:
    """Task 0.2: the exit status that run() returns for a program that could not be executed, as bash counts it.

    127: there is no such program. 126: there is something of that name, but it cannot be executed (no permission,
    a directory, not a program). The child ends with it, by os._exit: it never runs on in the parent's code. That
    holds for any other exception as well (Python refuses an argument with a null byte by a ValueError): with which
    status it ends then is up to you, 125 is customary. And exit_status() learns about signals.

    Read: "EXIT STATUS" in bash(1), execve(2).
    """
    raise NotImplementedError("task 0.2 is not built yet")


def furnish(program: Program) -> None:
    """Task 0.3: give the calling process exactly what the program is to have. become() calls it, just before exec.

    Descriptors 0, 1 and 2 are program.stdin, .stdout and .stderr (numbers of the caller's descriptors, which may
    be any, also 1 for stdin and 0 for stdout). No other descriptor is open in the program. The working directory
    is program.cwd, unless that is None; the caller's own is not changed. No signal is blocked, and every signal has its
    default action (SIGKILL and SIGSTOP always have, and cannot be set): Python ignores SIGPIPE and SIGXFSZ, and what is
    ignored stays ignored through exec.

    Raises the OSError of whatever fails.

    Read: dup2(2), F_DUPFD_CLOEXEC in fcntl(2), linux.close_range, signal(7) on what execve keeps,
    signal.valid_signals, signal.pthread_sigmask.
    """
    raise NotImplementedError("task 0.3 is not built yet")


def launch(program: Program, walls: Sequence[Wall] = ()) -> int:
    """Task 0.4: run a program behind walls, and return its exit status as exit_status() counts it.

    In this order: the child is cloned, with the flags of all walls together; it waits, and does nothing else,
    while the parent calls outside(pid) of every wall, in their order; then the child calls inside() of every
    wall, in their order, and becomes the program; the parent waits for its end, and then calls close() of every
    wall, in reverse order. pid is the child's process id as the parent sees it. A wall may use descriptors in
    inside(), so nothing is closed before the last of them. If the parent dies while the child waits, the child ends
    as well, and calls no inside().

    For task 0.5, whatever fails in this comes back to the caller: see send_error().

    Read: pipe(2), of which one end can be read only when the other is written or closed; linux.clone.
    """
    raise NotImplementedError("task 0.4 is not built yet")


def send_error(fd: int, error: BaseException) -> None:
    """Task 0.5: in the child, write an exception to the pipe whose descriptor is fd.

    With receive_error() in the parent, a failed start ends as if it had failed in the caller: launch() raises the
    very exception (same class, same arguments, same errno and filename) that a wall raised on either side, or
    that become() raised. Before that, the child is gone and has been waited for, and close() of every wall was
    called, in reverse order, also of those whose outside() was never called; and the caller has no more descriptors
    open than before, also when linux.clone() itself failed. An exception that cannot be written arrives as a
    RuntimeError, in whose text is str() of that exception.

    Read: pickle.dumps; O_CLOEXEC in open(2): the write end closes by itself in the moment exec succeeds.
    """
    raise NotImplementedError("task 0.5 is not built yet")


def receive_error(fd: int) -> None:
    """Task 0.5: in the parent, wait until the write end is closed; raise the exception that was sent, if any was.

    Both ends are this program, so unpickling is safe here. Of bytes that a container wrote it never would be:
    a pickle can name any function to be called.
    """
    raise NotImplementedError("task 0.5 is not built yet")
