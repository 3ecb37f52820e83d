"""By descriptors: the jail is entered before it is closed, and a descriptor from before leads out of it."""

import errno
import os
import stat

from thinwalls.wall import Program, Wall

from . import stage00_process

DEFAULT_ENV = dict(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root")


class Root(Wall):
    def __init__(self, rootfs):
        self.path = check_rootfs(rootfs)

    def inside(self):
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(directory)
        os.chroot(".")
        os.close(directory)


def run_in(rootfs, argv, env=None):
    if env is None:
        env = DEFAULT_ENV
    return stage00_process.launch(Program(tuple(argv), dict(env), "/"), (Root(rootfs),))


def check_rootfs(rootfs):
    try:
        path = os.path.realpath(rootfs, strict=True)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), rootfs) from None
    if not stat.S_ISDIR(mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), rootfs)
    return path


def escape():
    old = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chroot("tmp")
    os.fchdir(old)
    os.close(old)
    # The real root is the directory that is its own parent.
    while not os.path.samestat(os.stat("."), os.stat("..")):
        os.chdir("..")
    os.chroot(".")
