"""The C library's own calls, by ctypes, and the exceptions are made from errno. The way out is one long path."""

import ctypes
import os

from thinwalls.wall import Program, Wall

from .stage00_process import launch as start

libc = ctypes.CDLL(None, use_errno=True)
DEFAULT_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def call(function, *args, about=None):
    ctypes.set_errno(0)
    if function(*args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), about)


class Root(Wall):
    def __init__(self, rootfs):
        self._where = os.fsencode(check_rootfs(rootfs))

    def inside(self):
        call(libc.chdir, self._where)
        call(libc.chroot, b".")
        call(libc.chdir, b"/")


def run_in(rootfs, argv, env=None):
    return start(Program(list(argv), {**(env if env is not None else DEFAULT_ENV)}, "/"), [Root(rootfs)])


def check_rootfs(rootfs):
    fd = libc.open(os.fsencode(rootfs), os.O_PATH | os.O_CLOEXEC)
    if fd < 0:
        raise FileNotFoundError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), rootfs)
    try:
        call(libc.faccessat, fd, b".", os.F_OK, 0, about=rootfs)  # "." is in directories alone: ENOTDIR
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def escape():
    libc.mkdir(b"/.out", 0o700)
    call(libc.chroot, b"/.out")
    call(libc.chdir, b"/".join([b".."] * 200))
    call(libc.chroot, b".")
